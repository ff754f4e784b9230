"""Contrastive gradient matching (DCC) and DSAC against the original implementation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from datastill.core import Step
from datastill.data import Batch, Images
from datastill.functional import augment
from datastill.functional.augment import Parameters
from datastill.methods.gradient import GradientMatching
from datastill.nets.convnet import ConvNet
from datastill.rng import RNG
from datastill.task import Task
from reference.golden import Golden, error, set_parameters

NAMES = {"layerwise": "ours", "mse": "mse", "cosine": "cos"}
GIVEN = {"angle_rad": "angle"}


def step(golden: Golden, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, method: GradientMatching, number: int = 0) -> tuple[Step, Tensor]:
    """One step on the golden images, which are all there are, and the golden network."""
    config = golden.config
    images = Images(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.zeros(1, dtype=torch.long), tuple("abc"), (0.0,) * 3, (1.0,) * 3)
    architecture = ConvNet(width=config["width"], depth=config["depth"])
    net = set_parameters(architecture.build((3, 16, 16), config["C"]).to(dtype), golden.list("in.param"))

    def batch(name: str, each: int) -> Batch:
        return Batch(golden[f"in.{name}"].to(dtype), torch.eye(config["C"], dtype=dtype).repeat_interleave(each, 0))

    monkeypatch.setattr(Task, "fresh", lambda self, rng: net.train())
    monkeypatch.setattr(Task, "random_real", lambda self, n, rng: batch("real", config["nreal"]))
    synthetic = Task(images, architecture).synthetic(batch("syn", config["ipc"]))
    x = synthetic.images["pixels"].requires_grad_()
    return next(method.iterate(number, synthetic, Task(images, architecture), RNG(0))), x


@pytest.mark.parametrize("metric", NAMES)
def test_contrast(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = Golden("dcc")
    found, x = step(golden, monkeypatch, torch.float64, GradientMatching(metric=metric, contrast=True, warm_up=0))
    assert error(found.loss, golden[f"out.contrast_{NAMES[metric]}_loss"]) <= 1e-8
    assert error(torch.autograd.grad(found.loss, x, retain_graph=True)[0], golden[f"out.contrast_{NAMES[metric]}_grad"]) <= 1e-8
    norm = torch.cat([g.flatten() for g in golden.list("out.gw_syn")]).norm()
    assert found.gradient_norms is not None
    assert error(found.gradient_norms, norm[None]) <= 1e-8


def test_the_warm_up_is_class_by_class(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = Golden("dcc")
    found, x = step(golden, monkeypatch, torch.float64, GradientMatching(contrast=True))
    assert error(found.loss, golden["out.percls_ours_loss"]) <= 1e-8
    assert error(torch.autograd.grad(found.loss, x)[0], golden["out.percls_ours_grad"]) <= 1e-8


def test_the_warm_up_ends_by_iterations_or_by_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = Golden("dcc")
    for options, iteration, together in (({}, 249, False), ({}, 250, True), ({"warm_up_steps": 0}, 0, True)):
        found, _ = step(golden, monkeypatch, torch.float64, GradientMatching(contrast=True, **options), iteration)
        assert found.gradient_norms is not None
        assert len(found.gradient_norms) == (1 if together else golden.config["C"])


def test_dsac(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the operations and parameters the original drew for each class."""
    golden = Golden("dsac")

    def augmented(x: Tensor, y: Tensor, rng: RNG, strategy: str) -> Tensor:
        result = x.clone()
        for c, operation in enumerate(golden.config["ops"]):
            rows, prefix = y.argmax(1) == c, f"in.class{c}."
            given = {key.removeprefix(prefix): value for key, value in golden.tensors.items() if key.startswith(prefix)}
            names = {name: name if name in Parameters._fields else GIVEN.get(name, f"{operation}_{name}") for name in given}
            n = int(rows.sum())
            neutral = dict.fromkeys(Parameters._fields, torch.zeros(n))
            values = Parameters(**{**neutral, **{names[k]: v.float().expand(n) for k, v in given.items()}})
            result[rows] = augment.OPERATIONS[operation](x[rows], values)
        return result

    monkeypatch.setattr("datastill.methods.gradient.augment_classes", augmented)
    found, x = step(golden, monkeypatch, torch.float32, GradientMatching(contrast=True, warm_up=0, augment="dsa"))
    assert error(found.loss, golden["out.loss"]) <= 2e-5
    assert error(torch.autograd.grad(found.loss, x)[0], golden["out.grad"]) <= 2e-5
