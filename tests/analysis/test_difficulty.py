"""Difficulty of a dataset and of a run: what is scored, the run's own network, scores from a file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

import datastill as ds
import tiny
from datastill import artifact
from datastill.analysis.difficulty import Difficulty, at_its_network, known, of_data, of_run
from datastill.description import load
from datastill.functional.difficulty import gradient_norms
from datastill.teachers import Context, Pool, Teachers
from datastill.teachers._difficulty import difficulty
from kit import Told, input_error

EARLY = {"kind": "early", "networks": ["mlp:width=8"], "count": 2, "epochs": 2, "batch_size": 64}


def teachers(context: Context, **settings: Any) -> Teachers:
    pool = load(Pool, {**EARLY, **settings})  # type: ignore[type-abstract]
    pool.prepare(context)
    return Teachers(pool, context)


def analyzed(root: Path, method: str = "distribution", **fields: Any) -> tuple[ds.Run, ds.Task, Difficulty]:
    run = tiny.run(method, **{"ipc": 2, **fields})
    task = run.task(tiny.splits().train, root=root)
    ds.distill(run, task.real, root / "run", root=root, keep=(1,) if run.method.iterations else ())
    return run, task, of_run(root / "run", run, task, teachers(task.context), count=50)


def test_every_snapshot_and_real_images(tmp_path: Path) -> None:
    _, task, found = analyzed(tmp_path)
    assert list(found.run) == [0, 1, 3]
    assert list(found.current) == [0, 1, 3]
    assert len(found.real.labels) == 50
    assert list(found.real.scores) == ["gradn", "el2n", "misclassified", "forgetting"]
    batch = ds.load(tmp_path / "run").batch()
    wanted = difficulty(teachers(task.context), batch.x, batch.y)
    for name, values in wanted.items():
        np.testing.assert_allclose(found.run[3].scores[name], values, rtol=1e-6)
    assert found.run[3].labels.tolist() == [c for c in range(10) for _ in range(2)]
    assert list(found.shown) == ["real images", "start", "end"]
    assert found.real.view.shape == (50, 8, 8, 1)
    pixels = task.real.raw(torch.arange(len(task.real))).permute(0, 2, 3, 1)
    assert (found.real.view[7] == pixels).flatten(1).all(1).any()


@pytest.mark.parametrize("method", ["distribution", "gradient", "trajectory", "attention"])
def test_the_network_is_that_on_which_the_run_went_on(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny.run(method, ipc=2)
    task = run.task(tiny.splits().train, root=tiny.ROOT)
    nets: list[torch.nn.Module] = []
    cls = type(run.method)
    iterate: Callable[..., Iterator[ds.Step]] = cls.iterate

    def watched(*arguments: Any) -> Iterator[ds.Step]:
        for number, step in enumerate(iterate(*arguments)):
            if not number:
                nets.append(copy.deepcopy(step.net))
            yield step

    monkeypatch.setattr(cls, "iterate", watched)
    tiny.distill(run, tmp_path / "run", keep=(1, 2))
    monkeypatch.setattr(cls, "iterate", iterate)
    card = artifact.read_card(tmp_path / "run")
    for iteration in (0, 1, 2):
        tensors = artifact.read_snapshot(artifact.snapshots(tmp_path / "run")[iteration], card)
        found = at_its_network(run, task, iteration, tensors)
        assert found == pytest.approx(float(gradient_norms(nets[iteration], tensors["images"], tensors["labels"]).mean()), rel=1e-4)


def test_real_images_that_were_chosen_have_no_network_of_their_own(tmp_path: Path) -> None:
    _, _, found = analyzed(tmp_path, "coreset")
    assert found.current == {}
    assert list(found.run) == [0]
    assert list(found.shown) == ["real images", "set"]


def test_without_snapshots(tmp_path: Path) -> None:
    run, task, _ = analyzed(tmp_path)
    for path in (tmp_path / "run" / "snapshots").iterdir():
        path.unlink()
    with input_error("has no snapshots to analyze", "--keep 100,500"):
        of_run(tmp_path / "run", run, task, teachers(task.context))


def test_of_a_dataset_all_or_some(tmp_path: Path) -> None:
    where = Context(tiny.splits().train, tmp_path, tmp_path)
    told = Told()
    whole, some = (of_data(where.real, teachers(where), count=count, progress=told) for count in (0, 60))
    assert len(whole.real.labels) == len(where.real)
    assert len(some.real.labels) == 60
    apart = np.abs(some.real.scores["gradn"][:, None] - whole.real.scores["gradn"][None])
    assert apart.min(1).max() < 1e-4
    assert whole.real.of_class("el2n", 3).shape == (len(where.real.of_class[3]),)
    ranks = [rankdata(whole.real.scores[name]) for name in ("gradn", "el2n")]
    assert whole.agreement()["gradn", "el2n"] == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert told.told


def test_published_scores_are_compared(tmp_path: Path) -> None:
    where = Context(tiny.splits().train, tmp_path, tmp_path)
    ours = of_data(where.real, teachers(where), count=0).real.scores["el2n"]
    np.savez(tmp_path / "c.npz", scores=1 - ours**3, labels=where.real.targets.numpy())
    found = of_data(where.real, teachers(where), count=70, public=tmp_path / "c.npz")
    assert found.public["el2n"]["spearman"]["value"] == pytest.approx(-1)
    assert found.public["el2n"]["n"] == 70
    assert not found.warnings
    np.save(tmp_path / "c.npy", ours)
    assert "nobody can tell" in of_data(where.real, teachers(where), count=70, public=tmp_path / "c.npy").warnings[0]


def test_forgetting_only_where_epochs_are_stored(tmp_path: Path) -> None:
    where = Context(tiny.splits().train, tmp_path, tmp_path)
    assert "forgetting" in known(teachers(where))
    assert known(teachers(where, snapshots=[2])) == ("gradn", "el2n", "misclassified")
