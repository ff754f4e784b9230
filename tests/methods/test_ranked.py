"""Real images by difficulty: of the right end of the order, by class; drawn where drawing is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill.description import load
from datastill.methods.ranked import Ranked
from datastill.teachers._difficulty import SCORES, of_real
from kit import Told, input_error

POOL = {"kind": "early", "count": 2, "epochs": 2, "batch_size": 64}


def chosen(ipc: int = 3, seed: int = 0, **options: Any) -> tuple[ds.Task, torch.Tensor, torch.Tensor]:
    """The task, the rows of its images that were chosen (K, ipc), and all scores."""
    run = tiny.run("ranked", ipc=ipc, seed=seed, method_options={"pool": POOL, **options})
    task = tiny.task(run)
    run.method.prepare(task)
    x = run.method.start(task, ipc, ds.RNG(seed)("start")).batch().x
    real = task.real.batch(torch.arange(len(task.real))).x.flatten(1)
    rows = torch.stack([int_((real - one.flatten()).abs().sum(1)) for one in x]).view(10, ipc)
    assert isinstance(run.method, Ranked)
    return task, rows, torch.from_numpy(of_real(task.teachers(run.method.pool), task.real, run.method.score))


def int_(distance: torch.Tensor) -> torch.Tensor:
    assert distance.min() < 1e-4
    return distance.argmin()


@pytest.mark.parametrize("score", SCORES)
def test_easiest_and_hardest_of_each_class(score: str) -> None:
    task, easy, scores = chosen(choose="easiest", score=score)
    hard = chosen(choose="hardest", score=score)[1]
    for c, pool in enumerate(task.real.of_class):
        of_class = scores[pool].sort().values
        torch.testing.assert_close(scores[easy[c]].sort().values, of_class[:3])
        torch.testing.assert_close(scores[hard[c]].sort().values, of_class[-3:])
        assert (task.real.targets[easy[c]] == c).all()


def test_a_window_lies_between() -> None:
    task, rows, scores = chosen(choose="window", window=0.5)
    for c, pool in enumerate(task.real.of_class):
        place = (scores[pool] < scores[rows[c]].median()).double().mean()
        assert 0.4 < place < 0.6


def test_ccs_is_drawn_and_leaves_the_hardest_out() -> None:
    task, rows, scores = chosen(ipc=5, choose="ccs", cutoff=0.5)
    for c, pool in enumerate(task.real.of_class):
        assert scores[rows[c]].max() <= scores[pool].quantile(0.5)
        assert len({*rows[c].tolist()}) == 5
    assert not torch.equal(rows, chosen(ipc=5, seed=1, choose="ccs", cutoff=0.5)[1])
    assert torch.equal(rows, chosen(ipc=5, choose="ccs", cutoff=0.5)[1])


def test_scores_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny.run("ranked", method_options={"pool": POOL})
    tiny.distill(run, tmp_path / "a", root=tmp_path)
    assert len(list((tmp_path / "difficulty").glob("el2n-*.npy"))) == 1
    monkeypatch.setattr("datastill.teachers._difficulty.difficulty", None)  # would be called where nothing is kept
    tiny.distill(run.model_copy(update={"seed": 1}), tmp_path / "b", root=tmp_path)


def test_another_run_starts_from_it(tmp_path: Path) -> None:
    first = tiny.distill(tiny.run("ranked", ipc=2, method_options={"pool": POOL}), tmp_path / "easy").batch().x
    run = tiny.run("distribution", ipc=2, start_from=str(tmp_path / "easy"))
    tiny.distill(run, tmp_path / "dm", keep=(0,))
    from datastill import artifact
    start = artifact.read_snapshot(artifact.snapshots(tmp_path / "dm")[0], artifact.read_card(tmp_path / "dm"))
    torch.testing.assert_close(start["images"], first)


def test_a_plug_in_that_can_do_nothing_is_said(tmp_path: Path) -> None:
    told = Told()
    run = tiny.run("ranked", method_options={"pool": POOL}, plugins={"total_variation": {"weight": 0.1}})
    tiny.distill(run, tmp_path / "run", progress=told)
    assert told.warned[0] == "method ranked takes no iterations, so plug-ins have no effect: total_variation"


def test_a_plan_trains_and_writes_nothing(tmp_path: Path) -> None:
    run = tiny.run("ranked", method_options={"pool": POOL})
    task = replace(run.task(tiny.splits().train, root=tmp_path, ), dry_run=True)
    smaller, images, times = run.method.rehearsal(task, 1)
    smaller.start(replace(task, real=images), 1, ds.RNG(0))
    assert times == pytest.approx(len(task.real) / len(images))
    assert not list(tmp_path.iterdir())


def test_it_tells_of_the_work() -> None:
    told = Told()
    run = tiny.run("ranked", method_options={"pool": {**POOL, "seed": 7}})
    task = replace(tiny.task(run), progress=told)
    run.method.prepare(task)
    run.method.start(task, 1, ds.RNG(0))
    assert told.told[-1] == (2, 2, "el2n of real images")


def test_what_is_refused() -> None:
    for wrong, says in (({"score": "grand"}, "gradn"), ({"window": 1.5}, "window"), ({"cutoff": 1.0}, "cutoff"), ({"strata": 0}, "strata"),
                        ({"score": "forgetting", "pool": {**POOL, "epochs": 1}}, "needs teachers stored after several epochs"),
                        ({"score": "forgetting", "pool": {"kind": "pretrained"}}, "needs teachers stored after several epochs")):
        with input_error(says):
            load(Ranked, wrong)
