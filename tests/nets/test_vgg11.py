"""VGG-11: stages, and the smallest image."""

from __future__ import annotations

import pytest
import torch

from datastill.nets.vgg11 import VGG11
from kit import input_error

Shape = tuple[int, int, int]


@pytest.mark.parametrize(("shape", "features"), [((1, 28, 28), 16), ((3, 32, 32), 16), ((3, 64, 64), 64)])
def test_stages_halve_the_side_and_widen(shape: Shape, features: int) -> None:
    net, x = VGG11(width=2).build(shape, 10), torch.randn(2, *shape)
    side = 64 if shape[1] == 64 else 32
    assert {tap: tuple(value.shape[1:]) for tap, value in net.maps(x).items()} == {
        f"stage{i + 1}": (channels, side >> i, side >> i) for i, channels in enumerate((2, 4, 8, 16, 16))}
    assert net.embed(x).shape == (2, features)


@pytest.mark.parametrize("norm", ["none", "instance", "batch", "layer", "group"])
@pytest.mark.parametrize(("channels", "least"), [(1, 28), (3, 32)])
def test_the_smallest_image_it_names_is_the_smallest(channels: int, least: int, norm: str) -> None:
    net, x = VGG11(width=4, norm=norm), torch.randn(2, channels, least, least + 9)
    assert net.build((channels, least, least + 9), 2)(x).std() > 0
    with input_error(f"vgg11 does not fit images of {least + 9}x{least - 1} pixels", f"at least {least} pixels"):
        net.build((channels, least + 9, least - 1), 2)
