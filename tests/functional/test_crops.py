"""Crops: what torch's own resizing gives for a cut-out image, gradients, and how boxes are distributed."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from datastill.functional.crops import crop, draw_boxes, draw_flips, flip
from datastill.rng import RNG

X = RNG("crops").normal(6, 3, 12, 10).double()


@pytest.mark.parametrize("size", [None, (12, 10), (5, 7), (24, 30), (1, 1)])
def test_is_what_torch_gives_for_each_box(size: tuple[int, int] | None) -> None:
    boxes = draw_boxes(RNG(1), 6, (12, 10))
    found = crop(X, boxes, size)
    for x, (top, left, high, wide), one in zip(X, boxes.tolist(), found, strict=True):
        cut = x[None, :, top:top + high, left:left + wide]
        wanted = F.interpolate(cut, size or (12, 10), mode="bilinear", antialias=True)
        torch.testing.assert_close(one[None], wanted)


def test_one_box_for_all_and_the_whole_image() -> None:
    box = torch.tensor([[2, 3, 4, 5]])
    assert torch.equal(crop(X, box), crop(X, box.expand(6, 4)))
    torch.testing.assert_close(crop(X, torch.tensor([[0, 0, 12, 10]])), X)


def test_gradient() -> None:
    boxes = draw_boxes(RNG(2), 2, (5, 4))
    x = X[:2, :1, :5, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: crop(x, boxes), (x,))


def test_boxes_are_those_of_torchvision() -> None:
    """In distribution: mean area, mean logarithm of the ratio, share of boxes at the border."""
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    theirs = torch.tensor([RandomResizedCrop.get_params(torch.empty(3, 32, 40), [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    ours = draw_boxes(RNG(3), 4000, (32, 40))
    assert ours.dtype == torch.int64
    assert bool(((ours[:, :2] >= 0) & (ours[:, 2:] > 0)).all())
    assert bool((ours[:, :2] + ours[:, 2:] <= torch.tensor([32, 40])).all())
    for what in (lambda b: b[:, 2] * b[:, 3] / 1280, lambda b: (b[:, 3] / b[:, 2]).log(), lambda b: (b[:, 0] == 0).float(),
                 lambda b: b[:, 1] / 40):
        a, b = what(ours), what(theirs)
        assert abs(float(a.double().mean() - b.double().mean())) < 4 * float(b.double().std()) / 4000**0.5 * 2**0.5


def test_a_box_that_never_fits_is_the_largest_in_the_middle() -> None:
    box, = draw_boxes(RNG(0), 1, (4, 40), area=(1.0, 1.0), ratio=(0.5, 2.0)).tolist()
    assert box == [0, 16, 4, 8]


def test_flips() -> None:
    which = draw_flips(RNG(0), 6)
    found = flip(X, which)
    assert 0 < int(which.sum()) < 6
    assert all(torch.equal(a, b.flip(2) if w else b) for a, b, w in zip(found, X, which.tolist(), strict=True))
    assert torch.equal(flip(X, torch.tensor([True])), X.flip(3))
    assert 0.45 < float(draw_flips(RNG(1), 4000).double().mean()) < 0.55
