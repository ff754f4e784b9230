"""The unrolled inner training: exact against autograd's own graph, in the memory of a step, whatever is kept."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from datastill.functional.unroll import Inner, Unrolled, unroll
from datastill.nets import as_function
from datastill.nets.convnet import ConvNet
from datastill.rng import RNG
from kit import Counting, one_thread  # noqa: F401  a fixture

NET = ConvNet(width=4, depth=2).build((1, 8, 8), 3).double()
START, PREDICT = as_function(NET)
IMAGES = 7


def given(seed: int = 0) -> dict[str, Tensor]:
    rng = RNG("unroll", seed)
    return {"start": START.clone().requires_grad_(), "x": rng("x").normal(IMAGES, 1, 8, 8).double().requires_grad_(),
            "y": rng("y").normal(IMAGES, 3).double().requires_grad_(), "lr": torch.tensor(0.05, dtype=torch.double, requires_grad=True)}


def inner(steps: int, chunk: int = 0, augmented: bool = True) -> Inner:
    batches = [RNG("rows", n).permutation(IMAGES)[:3 if n % 3 else 5] for n in range(steps)]

    def augment(x: Tensor, number: int) -> Tensor:
        return x * (1 + 0.1 * math.sin(number)) + 0.05 * x.flip(3)

    return Inner(PREDICT, batches, augment if augmented else None, chunk)


def gradients(at: dict[str, Tensor], steps: Inner, how: str, loss: str, **options: Any) -> list[Tensor]:
    found = unroll(steps, at["start"], at["x"], at["y"].softmax(1), at["lr"], how, **options)  # type: ignore[arg-type]
    target = START + 0.01 * RNG("target").normal(len(START)).double()
    values = {"weights": lambda u: (u.last - target).square().sum(), "norms": lambda u: (u.norms * torch.arange(1.0, len(u.norms) + 1)).sum(),
              "both": lambda u: (u.last - target).square().sum() + 0.1 * u.norms.mean()}
    wanted = torch.autograd.grad(values[loss](found), list(at.values()), allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(at.values(), wanted, strict=True)]


def assert_same(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for name, a, b in zip(("start", "x", "y", "lr"), found, wanted, strict=True):
        assert float((a - b).abs().max()) <= tolerance * float(b.abs().max()), name


@pytest.mark.parametrize("loss", ["weights", "norms", "both"])
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_the_gradient_is_exact(steps: int, loss: str) -> None:
    at = given()
    assert_same(gradients(at, inner(steps), "exact", loss), gradients(at, inner(steps), "full", loss), 1e-10)


@pytest.mark.parametrize("options", [{"every": 3}, {"every": 100}, {"offload": True}, {"every": 4, "offload": True}, {"graphs": 4},
                                     {"graphs": 100}, {"graphs": 4, "every": 3}, {"graphs": 1, "every": 100, "offload": True}])
@pytest.mark.parametrize("chunk", [0, 2])
def test_so_it_is_whatever_is_kept_and_in_chunks(options: dict[str, Any], chunk: int) -> None:
    at = given()
    wanted = gradients(at, inner(10), "full", "both")
    assert_same(gradients(at, inner(10, chunk), "exact", "both", **options), wanted, 1e-10)
    assert_same(gradients(at, inner(10, chunk, augmented=False), "exact", "both", **options),
                gradients(at, inner(10, augmented=False), "full", "both"), 1e-10)


@pytest.mark.parametrize("graphs", [1, 5, 9])
@pytest.mark.parametrize("how", ["exact", "tesla"])
def test_kept_graphs_change_only_rounding(how: str, graphs: int) -> None:
    """torch differentiates a normalization by other code when that will be differentiated again."""
    at = given()
    assert_same(gradients(at, inner(9, 2), how, "both", graphs=graphs), gradients(at, inner(9, 2), how, "both"), 1e-12)


@pytest.mark.parametrize(("graphs", "passes"), [(0, 2 * 6), (1, 5), (6, 0)])
def test_norms_cost_no_second_gradient_where_a_graph_has_room(graphs: int, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    gradient = Inner.gradient

    def counting(self: Inner, weights: Tensor, x: Tensor, y: Tensor, number: int) -> Tensor:
        computed.append(number)
        return gradient(self, weights, x, y, number)

    monkeypatch.setattr(Inner, "gradient", counting)
    gradients(given(), inner(6, 2), "exact", "both", graphs=graphs)
    assert len(computed) == passes


def test_a_second_pass_backwards_recomputes_what_the_first_has_freed() -> None:
    """The loop measures a gradient's norm before it asks for the gradient."""
    at = given()
    found = unroll(inner(6), at["start"], at["x"], at["y"].softmax(1), at["lr"], graphs=3)
    loss = found.last.square().sum() + found.norms.sum()
    first = torch.autograd.grad(loss, list(at.values()), retain_graph=True)
    assert_same(list(torch.autograd.grad(loss, list(at.values()))), list(first), 1e-12)


def test_values_are_those_of_plain_sgd() -> None:
    at, steps = given(), inner(6)
    weights, norms = START.clone(), []
    for number, rows in enumerate(steps.batches):
        leaf = weights.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(steps.loss(leaf, at["x"][rows], at["y"].softmax(1)[rows], number), leaf)
        norms.append(float(gradient.norm()))
        weights = weights - 0.05 * gradient
    for how in ("exact", "full", "tesla"):
        found: Unrolled = unroll(steps, at["start"], at["x"], at["y"].softmax(1), at["lr"], how)  # type: ignore[arg-type]
        torch.testing.assert_close(found.last, weights)
        torch.testing.assert_close(found.norms, torch.tensor(norms, dtype=torch.double))


def test_tesla_is_exact_for_one_step_and_biased_for_many() -> None:
    at = given()
    one, exact = (gradients(at, inner(1), how, "weights")[1] for how in ("tesla", "full"))
    torch.testing.assert_close(one, exact)
    many, exact = (gradients(at, inner(50), how, "weights")[1] for how in ("tesla", "full"))
    cosine = float(torch.nn.functional.cosine_similarity(many.flatten(), exact.flatten(), dim=0))
    assert 0 < cosine < 0.999


def test_only_one_step_has_a_graph_at_a_time() -> None:
    """The graph's tensors that live at once do not grow with the steps; those that are kept do with their number."""
    def most(steps: int, graphs: int = 0) -> int:
        alive, peak = [0], [0]

        class Counted:
            def __init__(self, tensor: Tensor) -> None:
                self.tensor = tensor
                alive[0] += 1
                peak[0] = max(peak[0], alive[0])

            def __del__(self) -> None:
                alive[0] -= 1

        at = given()
        with torch.autograd.graph.saved_tensors_hooks(Counted, lambda held: held.tensor):
            gradients(at, inner(steps), "exact", "weights", graphs=graphs)
        return peak[0] - steps  # one weight vector a step

    assert abs(most(20) - most(5)) <= 2
    assert abs(most(20, 3) - most(5, 3)) <= 2
    assert most(5) + 20 < most(5, 2) < most(5, 3) < most(5, 5)


def test_images_that_are_in_no_batch_have_no_gradient() -> None:
    at = given()
    steps = Inner(PREDICT, [torch.tensor([0, 2]), torch.tensor([2, 5])])
    dx = gradients(at, steps, "exact", "weights")[1]
    assert [bool(row.abs().sum() > 0) for row in dx] == [True, False, True, False, False, True, False]


def test_the_device_is_waited_for_no_more_often_with_more_steps() -> None:
    def reads(steps: int) -> int:
        at = given()
        found = unroll(inner(steps, augmented=False), at["start"], at["x"], at["y"].softmax(1), at["lr"])
        with Counting() as counting:
            (found.last.sum() + found.norms.sum()).backward()
        return counting.seen["_local_scalar_dense"] + counting.seen["is_nonzero"]

    assert reads(2) == reads(9) == 0
