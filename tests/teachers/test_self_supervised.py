"""Pools without labels: every loss learns and resumes, the classifier leaves the backbone alone, features improve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill.description import load
from datastill.errors import Stopped
from datastill.functional.batchnorm import normalizations
from datastill.teachers import Context, Pool, Teachers
from datastill.teachers.self_supervised import SelfSupervised
from kit import Told, input_error

pytest.importorskip("lightly")
LOSSES = list(SelfSupervised.presets)
NET = "convnet:width=4,depth=2,norm=batch"


def pool(**options: Any) -> Pool:
    return load(Pool, {"kind": "self_supervised", "networks": [NET], "epochs": 2, "batch_size": 64, "hidden": 16, "dim": 8,  # type: ignore[type-abstract]
                       "queue": 32, "prototypes": 6, "probe_epochs": 3, **options})


def few() -> ds.Images:
    return tiny.splits().train.subset(torch.arange(300))


def taught(of: Pool, root: Path, **more: Any) -> Teachers:
    return of.fit(few(), root=root, **more)


@pytest.mark.parametrize("loss", LOSSES)
def test_it_learns_and_goes_on_where_it_stopped(loss: str, tmp_path: Path) -> None:
    whole = taught(pool(loss=loss), tmp_path / "whole")[0]
    with pytest.raises(Stopped):
        taught(pool(loss=loss), tmp_path / "parts", progress=Told(stop_at=1))
    parts = taught(pool(loss=loss), tmp_path / "parts")[0]
    for (name, a), b in zip(whole.network.state_dict().items(), parts.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert whole.gives == {"logits", "features", "maps", "statistics"}
    assert 0 <= whole.facts["linear"] <= 1
    x = few().batch(torch.arange(8)).x
    assert whole.class_logits(x).shape == (8, 10)


def test_the_classifier_is_trained_on_features_that_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datastill.teachers._self_training as training

    seen: list[dict[str, torch.Tensor]] = []
    original = training.probe

    def watched(network: torch.nn.Module, *rest: Any) -> None:
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        original(network, *rest)
        seen.append({name: value.clone() for name, value in network.state_dict().items()})

    monkeypatch.setattr(training, "probe", watched)
    teacher = taught(pool(), tmp_path)[0]
    before, after = seen
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"classifier.weight", "classifier.bias"}
    assert normalizations(teacher.network)


def test_features_become_better_and_the_classifier_uses_them(tmp_path: Path) -> None:
    """Digits: far above chance after a few epochs, the linear classifier above guessing."""
    found = load(Pool, {"kind": "simclr", "networks": ["convnet:width=16,depth=2,norm=batch"], "epochs": 6, "batch_size": 128, "hidden": 64,  # type: ignore[type-abstract]
                        "dim": 32, "lr": 0.3, "probe_epochs": 40})
    teachers = found.fit(tiny.splits().train, root=tmp_path)
    card = teachers[0].facts
    assert card["linear"] > 0.8
    assert card["accuracy"] > 0.5


def test_views_do_not_touch_the_generators_of_others(tmp_path: Path) -> None:
    import random

    import numpy as np

    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    expected = random.random(), np.random.rand(), float(torch.rand(1))  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    taught(pool(epochs=1), tmp_path)
    assert (random.random(), np.random.rand(), float(torch.rand(1))) == expected  # noqa: NPY002


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with input_error("loss"):
        pool(loss="supervised")
    with input_error("temperature"):
        pool(temperature=-1.0)
    with input_error("augment"):
        pool(augment="dsa")
    context = Context(few(), tmp_path, tmp_path)
    with input_error("epoch 1", "linear classifier is trained after the last epoch"):
        pool(epoch=1).check(context, {"logits"})
    with input_error("epoch 1", "linear classifier is trained after the last epoch"):
        pool(epoch=1).check(context, {"class_logits"})
    with input_error("epoch 0", "linear classifier is trained after the last epoch"):
        pool(epochs=0).check(context, {"class_logits"})
    with input_error("no linear layer"):
        pool(networks=["misfits:Plain"]).check(context)
    with input_error("5 channels", "data.channels=3"):
        many = ds.Images(torch.zeros(12, 5, 8, 8, dtype=torch.uint8), torch.arange(12) % 3, ("a", "b", "c"), (0.5,) * 5, (0.2,) * 5)
        pool().check(Context(many, tmp_path, tmp_path))
    pool(epoch=1).check(context, {"statistics"})
    with input_error("no linear layer"):
        from datastill.teachers._probe import probe
        probe(torch.nn.Flatten(), few(), 1, 0.1, ds.RNG(0))
    monkeypatch.setitem(__import__("sys").modules, "lightly", None)
    with input_error("lightly", "pip install -e '.[ssl]'"):
        pool().check(context)


@pytest.mark.parametrize(("loss", "passes"), [("moco_v2", 1), ("simclr", 2), ("byol", 2)])
def test_what_the_network_sees(loss: str, passes: int, tmp_path: Path) -> None:
    """MoCo asks with one view and answers with the other, which only the running mean sees; others pass both."""
    teacher = taught(pool(loss=loss, epochs=1), tmp_path)[0]
    updates = {int(one.num_batches_tracked) for one in normalizations(teacher.network).values()}
    assert updates == {passes * 5}  # 300 images in batches of 64
