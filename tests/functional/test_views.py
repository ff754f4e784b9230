"""Views: strips, boxes that reach beyond the image, mirrored and mixed images, in this order."""

from __future__ import annotations

import torch

from datastill.functional.crops import crop, flip
from datastill.functional.mixing import Mix, mixed
from datastill.functional.rded import shuffle_strips
from datastill.functional.views import View, shown
from datastill.rng import RNG

X = RNG("views").normal(4, 3, 7, 9)


def test_nothing_is_the_images_themselves() -> None:
    assert shown(X, View()) is X


def test_strips_of_each_image_in_its_own_order() -> None:
    order = RNG("strips").uniform(4, 2, 3).argsort(2).flatten(1)
    found = shown(X, View(strips=order.to(torch.uint8), boxes=torch.tensor([[0, 0, 6, 9]]).expand(4, 4)))
    for x, one, row in zip(X, found, order, strict=True):
        wanted = shuffle_strips(x, row[:3], row[3:])  # 6 x 9 of 7 x 9 pixels remain
        torch.testing.assert_close(one, crop(wanted[None], torch.tensor([[0, 0, 6, 9]]), (7, 9))[0])
    assert shown(X, View(strips=order)).shape == X.shape


def test_beyond_the_image_are_zeros() -> None:
    found = shown(X, View(boxes=torch.tensor([[-2, 1, 7, 9], [3, -1, 7, 9], [0, 0, 7, 9], [0, 0, 7, 9]])))
    wanted = torch.zeros_like(X)
    wanted[0, :, 2:, :8] = X[0, :, :5, 1:]
    wanted[1, :, :4, 1:] = X[1, :, 3:, :8]
    wanted[2:] = X[2:]
    torch.testing.assert_close(found, wanted)


def test_the_order_is_crop_flip_mix() -> None:
    boxes, flips = torch.tensor([[1, 2, 4, 4]]).expand(4, 4), torch.tensor([True, False, True, True])
    mix = Mix(torch.tensor([1, 2, 3, 0]), 0.5, (0, 0, 3, 3))
    assert torch.equal(shown(X, View(None, boxes, flips, mix)), mixed(flip(crop(X, boxes), flips), mix))
