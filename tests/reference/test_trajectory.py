"""Trajectory matching against the original implementations: MTT, TESLA's estimate, learned soft labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datastill.core import Group, Method, Optim, Step
from datastill.data import Batch, Images
from datastill.functional.labels import mean_of_right
from datastill.functional.unroll import Inner, Unrolled, unroll
from datastill.loop import Loop
from datastill.methods.trajectory import TrajectoryMatching
from datastill.nets import as_function
from datastill.nets.convnet import ConvNet
from datastill.rng import RNG
from datastill.synthetic import SyntheticSet
from datastill.task import Task
from datastill.teachers.experts import Experts
from reference.golden import Golden, error


def setting(golden: Golden, steps: int) -> tuple[Inner, dict[str, Any]]:
    """The unrolled training of a golden case, and its inputs in float64."""
    config = golden.config
    net = ConvNet(width=config["width"], depth=config["depth"]).build((config["ch"], config["im"], config["im"]), config["C"])
    _, predict = as_function(net.double())
    batches = [rows[rows >= 0] for rows in golden[f"in.n{steps:02d}.index"]]
    start, target = (torch.cat([v.flatten() for v in golden.list(f"in.{name}")]).double() for name in ("theta0", "target"))
    return Inner(predict, batches), {"start": start, "target": target, "x": golden["in.x"].double().requires_grad_(),
                                     "lr": golden["in.lr"].double().requires_grad_()}


def matching(found: Unrolled, start: Tensor, target: Tensor) -> Tensor:
    return (found.last - target).square().sum() / (start - target).square().sum()


@pytest.mark.parametrize("chunk", [0, 3])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_mtt(steps: int, chunk: int) -> None:
    golden = Golden("mtt")
    inner, at = setting(golden, steps)
    inner = Inner(inner.predict, inner.batches, chunk=chunk)
    y = F.one_hot(golden["in.y"], golden.config["C"]).double()
    key, leaves = f"out.n{steps:02d}", [at["x"], at["lr"]]
    for how in ("exact", "full"):
        found = unroll(inner, at["start"], at["x"], y, at["lr"], how)  # type: ignore[arg-type]
        loss, mean = matching(found, at["start"], at["target"]), found.norms.mean()
        assert error(found.last, golden[f"{key}.theta_N"]) <= 1e-8
        assert error(found.norms, golden[f"{key}.gnorm"]) <= 1e-8
        assert error(loss, golden[f"{key}.loss"]) <= 1e-8
        for name, value in (("grad", loss), ("sdc_grad", loss + golden.config["lam"] * mean)):
            gradients = torch.autograd.grad(value, leaves, retain_graph=True)
            assert error(gradients[0], golden[f"{key}.{name}_x"]) <= 1e-8
            assert error(gradients[1], golden[f"{key}.{name}_lr"]) <= 1e-8
        assert error(torch.autograd.grad(mean, at["x"])[0], golden[f"{key}.gnorm_mean_grad_x"]) <= 1e-8


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_tesla(steps: int) -> None:
    """The authors' code loses a factor of 2 of their formula at the images, which is here."""
    golden = Golden("mtt")
    inner, at = setting(golden, steps)
    y = F.one_hot(golden["in.y"], golden.config["C"]).double()
    loss = matching(unroll(inner, at["start"], at["x"], y, at["lr"], "tesla"), at["start"], at["target"])
    dx, dlr = torch.autograd.grad(loss, [at["x"], at["lr"]])
    assert error(loss, golden[f"out.n{steps:02d}.tesla_loss"]) <= 1e-8
    assert error(dx, 2 * golden[f"out.n{steps:02d}.tesla_grad_x"]) <= 1e-8
    assert error(dlr, golden[f"out.n{steps:02d}.tesla_grad_lr"]) <= 1e-8


@pytest.mark.parametrize("how", ["exact", "full", "tesla"])
@pytest.mark.parametrize("steps", [1, 3])
def test_learned_soft_labels(steps: int, how: str) -> None:
    golden = Golden("datm_loss")
    inner, at = setting(golden, steps)
    logits = golden["in.y"].double().requires_grad_()
    found = unroll(inner, at["start"], at["x"], logits.softmax(1), at["lr"], how)  # type: ignore[arg-type]
    loss = matching(found, at["start"], at["target"])
    name = "tesla_" if how == "tesla" else ""
    assert error(loss, golden[f"out.n{steps:02d}.{name}loss"]) <= 1e-8
    for leaf, value in zip(("x", "y", "lr"), torch.autograd.grad(loss, [at["x"], logits, at["lr"]]), strict=True):
        assert error(value, golden[f"out.n{steps:02d}.{name}grad_{leaf}"]) <= 1e-8


def test_labels_begin_as_the_mean_of_the_experts_that_are_right() -> None:
    golden = Golden("datm_labels")
    logits, targets = golden["in.logits"].double(), golden["in.label"]
    assert error(mean_of_right(logits, targets), golden["out.init"]) <= 1e-12
    wrong = logits.clone()
    wrong[:, 0, targets[0]] = -1e3
    assert mean_of_right(wrong, targets).isfinite().all()  # nobody is right: all count


def test_the_window_grows() -> None:
    golden = Golden("datm_window")
    for row, (low, current, high, end, grows) in enumerate(golden["in.table"].tolist()):
        method = TrajectoryMatching(min_start=low, max_start=high, first_start=current if grows else 0, expand=end if grows else 0,
                                    pool=Experts(epochs=100, snapshots=()))
        found = [method.window(iteration) for iteration in golden["in.iteration"].tolist()]
        assert found == golden["out.upper"][row].tolist(), golden.config["rows"][row]


class Walk(Method):
    """Moves the images to the next golden ones."""

    def start(self, task: Task, ipc: int, rng: RNG) -> SyntheticSet:
        return task.synthetic(Batch(Golden("ema")["in.x0"].double(), torch.eye(4).double()))

    def iterate(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> Iterator[Step]:
        batch = synthetic.batch()
        away = batch.x.detach() - Golden("ema")[f"in.x{iteration + 1}"].double()
        yield Step((batch.x * away).sum(), batch, torch.nn.Identity())


def test_running_mean_of_the_images() -> None:
    golden = Golden("ema")
    images = Images(torch.zeros(4, 3, 5, 5, dtype=torch.uint8), torch.arange(4), tuple("abcd"), (0.5,) * 3, (0.5,) * 3)
    optim = Optim(images=Group(lr=1.0, momentum=0.0), ema=golden.config["ema_decay"])
    loop = Loop(Walk(iterations=4, optim=optim), {}, Task(images, ConvNet()), RNG(0), 1)
    for number in range(4):
        loop.advance()
        assert error(loop.result().images["pixels"], golden["out.ema"][number]) <= 1e-12
