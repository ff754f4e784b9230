"""Chunks: values and gradients are those of all images at once, whatever the chunk."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datastill.functional.chunks import KEPT, of_features, sum_over
from datastill.rng import RNG

NET = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten()).double().requires_grad_(False)
WEIGHTS = RNG("w").normal(7, 12).double()


def images() -> Tensor:
    return RNG("x").normal(7, 1, 4, 4).double().requires_grad_()


def ratio(features: Tensor) -> Tensor:
    """A loss that does not add up over images."""
    return (features * WEIGHTS).square().sum() / (1 + features.exp().sum())


@pytest.mark.parametrize("size", [1, 3, 7, 100])
@pytest.mark.parametrize("scale", [1.0, -2.5])
def test_sum_over(size: int, scale: float) -> None:
    x, y = images(), images()
    loss = scale * sum_over(lambda part, rows: (NET(part) * WEIGHTS[rows]).tanh().sum(), x, size)
    plain = scale * (NET(y) * WEIGHTS).tanh().sum()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], torch.autograd.grad(plain, y)[0])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_of_features(size: int) -> None:
    x, y = images(), images()
    loss = of_features(NET, ratio, x, size) * 3
    plain = ratio(NET(y)) * 3
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], torch.autograd.grad(plain, y)[0])


@pytest.mark.parametrize("size", [2, 100])
def test_gradient_reaches_what_the_images_are_made_of(size: int) -> None:
    small = RNG("s").normal(7, 1, 2, 2).double().requires_grad_()
    other = small.detach().clone().requires_grad_()

    def decode(parameters: Tensor) -> Tensor:
        return F.interpolate(parameters, scale_factor=2)

    for term in (lambda x: of_features(NET, ratio, x, size),
                 lambda x: sum_over(lambda part, rows: NET(part).square().sum(), x, size)):
        loss, plain = term(decode(small)), term(decode(other).clone())
        found = torch.autograd.grad(loss, small)[0]
        torch.testing.assert_close(found, torch.autograd.grad(plain, other)[0])
        assert found.abs().sum() > 0


def test_without_graph_nothing_is_kept() -> None:
    x = images().detach()
    assert not sum_over(lambda part, rows: NET(part).sum(), x, 2).requires_grad
    assert not of_features(NET, ratio, x, 2).requires_grad
    with torch.no_grad():
        assert not sum_over(lambda part, rows: NET(part).sum(), images(), 2).requires_grad


def test_only_a_chunk_goes_through_at_once() -> None:
    seen: list[int] = []

    def features(part: Tensor) -> Tensor:
        seen.append(len(part))
        return NET(part)

    torch.autograd.grad(sum_over(lambda part, rows: features(part).sum(), x := images(), 3), x)
    assert seen == [3, 3, 1]


def test_only_so_many_graphs_are_kept_at_once() -> None:
    seen: list[bool] = []

    def features(part: Tensor) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return NET(part)

    torch.autograd.grad(of_features(features, ratio, x := images(), 1), x)
    assert seen == [True] * KEPT + [False] * (7 - KEPT) + [True] * (7 - KEPT)  # the others a second time
    seen.clear()
    torch.autograd.grad(of_features(features, ratio, x := images(), 2), x)
    assert seen == [True] * 4
