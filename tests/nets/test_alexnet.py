"""AlexNet: proportions, maps, and the smallest image."""

from __future__ import annotations

import pytest
import torch

from datastill.nets.alexnet import AlexNet
from kit import input_error

Shape = tuple[int, int, int]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_gray_images_of_28_pixels_are_padded_to_32(shape: Shape) -> None:
    maps = AlexNet(width=2).build(shape, 10).maps(torch.randn(2, *shape))
    assert {tap: value.shape[-1] for tap, value in maps.items()} == {
        "block1": 32, "block2": 16, "block3": 8, "block4": 8, "block5": 8}


def test_width_keeps_the_proportions() -> None:
    with torch.device("meta"):
        maps = AlexNet(width=64).build((3, 32, 32), 10).maps(torch.zeros(1, 3, 32, 32))
    assert [value.shape[1] for value in maps.values()] == [64, 96, 128, 96, 96]


def test_maps_are_taken_after_the_activation_before_pooling() -> None:
    net, x = AlexNet(width=4).build((3, 16, 16), 2), torch.randn(2, 3, 16, 16)
    last = net.maps(x)["block5"]
    assert last.min() == 0
    torch.testing.assert_close(net.embed(x), torch.nn.functional.max_pool2d(last, 2).flatten(1))


@pytest.mark.parametrize("norm", ["none", "instance", "batch", "layer", "group"])
@pytest.mark.parametrize(("channels", "least"), [(1, 4), (3, 8)])
def test_the_smallest_image_it_names_is_the_smallest(channels: int, least: int, norm: str) -> None:
    net, x = AlexNet(width=8, norm=norm), torch.randn(2, channels, least, least + 9)
    assert net.build((channels, least, least + 9), 2)(x).std() > 0
    with input_error(f"alexnet does not fit images of {least + 9}x{least - 1} pixels", f"at least {least} pixels"):
        net.build((channels, least + 9, least - 1), 2)
