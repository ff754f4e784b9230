"""A parametrization that stores fewer images than it decodes to, through everything that handles a set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill import artifact
from datastill.description import load
from datastill.errors import InputError, RunError
from datastill.loop import Loop
from datastill.run import check_run
from kit import Told, toy_images
from quarters import Quarters

METHODS = ["distribution", "gradient"]


def run_of(method: str = "distribution", **fields: Any) -> ds.Run:
    return tiny.run(method, parametrization="quarters:Quarters", ipc=2, **fields)


@pytest.mark.parametrize("method", METHODS)
def test_distilled_loaded_and_scored(method: str, tmp_path: Path) -> None:
    synthetic = tiny.distill(run_of(method), tmp_path)
    done = ds.load(tmp_path)
    assert (len(synthetic), synthetic.card["stored"], synthetic.card["ipc"]) == (80, 20, 2)
    assert (len(done), done.card["count"], done.card["stored"], done.card["ipc"]) == (80, 80, 20, 2)
    assert done.card["prepared"]["parametrization"] == {"tiles": 4}
    assert done.y.argmax(1).tolist() == [c for c in range(10) for _ in range(8)]
    assert torch.equal(done.x, synthetic.batch().x)
    (score,) = ds.evaluate(done, "dc:epochs=1,augment=none", tiny.splits().test, network=tiny.NETWORK, trials=1)
    assert 0 <= score.accuracy <= 1


@pytest.mark.parametrize("method", METHODS)
def test_resumed_after_every_iteration(method: str, tmp_path: Path) -> None:
    run = run_of(method)
    tiny.distill(run, tmp_path / "whole")
    for _ in range(run.method.iterations):
        with pytest.raises(RunError, match="run the same command to continue"):
            tiny.distill(run, tmp_path / "broken", progress=Told(stop_at=0))
    tiny.distill(run, tmp_path / "broken")
    for name in (artifact.TENSORS, artifact.CARD, artifact.PREVIEW):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()


@pytest.mark.parametrize("soft", [False, True])
def test_a_stored_set_is_read_back_and_not_encoded_again(soft: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny.task(run_of())
    start = task.random_real(2, ds.RNG(0))
    synthetic = task.synthetic(start._replace(y=start.y * 3 + 0.1) if soft else start, soft=soft, lr=0.03)
    stored = artifact.tensors_of(synthetic)
    monkeypatch.setattr(Quarters, "encode", None)
    again = artifact.restored(stored, task.real, task.parametrization)
    assert torch.equal(again.labels, synthetic.labels)
    assert torch.equal(again.images["tiles"], synthetic.images["tiles"])
    both = artifact.tensors_of(again)
    assert list(both) == list(stored)
    assert all(torch.equal(both[name], stored[name]) for name in stored)


def test_the_start_holds_four_real_images(tmp_path: Path) -> None:
    task = tiny.task(run_of())
    start = task.random_real(1, ds.RNG(0))
    synthetic = task.synthetic(start, rng=ds.RNG(1))
    small = torch.nn.functional.interpolate(start.x, scale_factor=0.5, mode="bilinear")
    assert torch.equal(synthetic.images["tiles"][:, :, :4, :4], small)
    other = task.synthetic(start, rng=ds.RNG(2))
    assert torch.equal(other.decode(torch.arange(0, 40, 4)), synthetic.decode(torch.arange(0, 40, 4)))
    assert not torch.equal(other.decode(torch.tensor([1])), synthetic.decode(torch.tensor([1])))


@pytest.mark.parametrize("method", tiny.METHODS)
def test_methods_hand_on_the_stream_of_their_start(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a parametrization would draw the same images under every seed."""
    paths = []
    encode = Quarters.encode
    monkeypatch.setattr(Quarters, "encode", lambda self, start, task, rng: (paths.append(rng.path), encode(self, start, task, rng))[1])
    run = run_of(method)
    run.method.start(tiny.task(run), 2, ds.RNG(7, "start"))
    assert [path[:2] for path in paths] == [(7, "start")]


def test_loops_go_by_the_stored_images() -> None:
    task = tiny.task(run_of("gradient"))
    synthetic = task.synthetic(task.random_real(2, ds.RNG(0)))
    method = tiny.method("gradient", outer=0, inner=1)
    assert len(list(method.iterate(0, synthetic, task, ds.RNG(1)))) == 2


def test_what_does_not_fit_is_refused_before_the_work() -> None:
    run = load(ds.Run, {"method": tiny.method("distribution"), "network": "mlp", "parametrization": "quarters:Quarters", "ipc": 1})
    with pytest.raises(InputError, match=r"quarters: images of \(1, 5, 5\) cannot be cut"):
        check_run(run, toy_images(shape=(1, 5, 5)))


@pytest.mark.parametrize("labels", [lambda stored: stored.repeat(2, 1), lambda stored: stored[:-1]])
def test_labels_out_of_order_or_too_few_are_refused(labels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quarters, "labels", lambda self, stored: labels(stored))
    task = tiny.task(run_of())
    with pytest.raises(InputError, match=r"parametrization quarters:Quarters gave 40 images and \d+ labels for 10 stored ones"):
        Loop(tiny.Pull(), {}, task, ds.RNG(0), 1)
