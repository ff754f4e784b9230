"""SDC: the norm of the method's own gradients where there are some, else at the network of the step; nothing is changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import datastill as ds
import tiny
from datastill.core import Step
from datastill.data import Batch
from datastill.loop import Loop
from datastill.plugins.sdc import SDC
from kit import input_error


def steps(method: str, network: str = tiny.NETWORK) -> tuple[Step, ds.Task, torch.Tensor]:
    """The first step of a method, its task and its pixels."""
    run = tiny.run(method, network=network)
    task = tiny.task(run)
    run.method.prepare(task)
    synthetic = run.method.start(task, 1, ds.RNG(0))
    pixels = synthetic.images["pixels"].requires_grad_()
    return next(run.method.iterate(1, synthetic, task, ds.RNG(1))), task, pixels


@pytest.mark.parametrize("network", [tiny.NETWORK, "convnet:width=4,depth=2,norm=batch", "mlp:width=8"])
def test_without_gradients_of_its_own_it_is_the_norm_at_the_steps_network(network: str) -> None:
    step, task, pixels = steps("distribution", network)
    assert step.gradient_norms is None
    state = {name: value.clone() for name, value in step.net.state_dict().items()}
    flags = [one.requires_grad for one in step.net.parameters()], step.net.training
    found = SDC().loss(step, task, ds.RNG(0))
    (gradient,) = torch.autograd.grad(found, pixels)
    assert bool((gradient.abs().sum((1, 2, 3)) > 0).all())
    assert ([one.requires_grad for one in step.net.parameters()], step.net.training) == flags
    assert all(torch.equal(value, state[name]) for name, value in step.net.state_dict().items())
    net = step.net.requires_grad_(True)
    net.eval() if "batch" in network else net.train()
    loss = F.cross_entropy(net(step.batch.x.detach()), step.batch.y)
    norm = torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(net.parameters()))]).norm()
    torch.testing.assert_close(found.detach(), norm)
    torch.testing.assert_close(SDC(power=2).loss(step, task, ds.RNG(0)).detach(), norm**2)


@pytest.mark.parametrize(("method", "reduce"), [("gradient", "sum"), ("trajectory", "mean")])
def test_the_methods_own_norms_are_used(method: str, reduce: str) -> None:
    step, task, pixels = steps(method)
    assert step.gradient_norms is not None
    norms = step.gradient_norms.detach()
    assert len(norms) > 1
    for power in (1, 2):
        found = SDC(power=power).loss(step, task, ds.RNG(0))  # type: ignore[arg-type]
        torch.testing.assert_close(found.detach(), getattr(norms**power, reduce)())
        assert bool(torch.autograd.grad(found, pixels, retain_graph=True)[0].abs().sum() > 0)


@pytest.mark.parametrize("method", ["distribution", "gradient", "trajectory", "attention"])
def test_with_it_the_norm_is_smaller(method: str, tmp_path: Path) -> None:
    def norm(weight: float) -> float:
        options = {"iterations": 8, "optim": {"images": {"lr": {"distribution": 1.0, "attention": 0.1, "gradient": 0.1, "trajectory": 100.0}[method]}}}
        plugins = {"sdc": {"weight": weight, "balance": "gradient"}} if weight else {}
        run = tiny.run(method, method_options=options, plugins=plugins)
        task = tiny.task(run)
        run.method.prepare(task)
        loop = Loop(run.method, dict(zip(("sdc",), run.plugins, strict=False)), task, ds.RNG(0), 1)
        for _ in range(8):
            loop.advance()
        batch = loop.synthetic.batch()
        total = 0.0
        for seed in range(5):
            net = task.fresh(ds.RNG(100 + seed))
            loss = F.cross_entropy(net(batch.x.detach()), batch.y.detach())
            total += float(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]).norm())
        return total

    assert norm(1.0) < norm(0.0)


def test_a_network_without_weights_is_refused() -> None:
    x = torch.zeros(2, 1, 8, 8, requires_grad=True)
    step = Step(x.sum(), Batch(x, torch.eye(2)), nn.Identity())
    with input_error("sdc", "Identity", "no parameters"):
        SDC().loss(step, tiny.task(tiny.run()), ds.RNG(0))


@pytest.mark.parametrize("settings", ["power=3", "power=0.5", "weight=-1", "weight=inf"])
def test_settings_outside_their_domain(settings: str, run_cli: object) -> None:
    code, _, error = run_cli("distill", "dm/digits-ipc1", f"plugins.sdc.{settings}")  # type: ignore[operator]
    assert code == 2
    assert f"plugins.sdc.{settings.partition('=')[0]}" in error
