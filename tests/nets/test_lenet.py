"""LeNet: proportions, and the smallest image."""

from __future__ import annotations

import pytest
import torch

from datastill.nets.lenet import LeNet
from kit import input_error


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_the_classic_sizes(shape: tuple[int, int, int]) -> None:
    net = LeNet().build(shape, 10)
    assert net.embed(torch.zeros(1, *shape)).shape == (1, 84)
    assert [value.shape[1:] for value in net.maps(torch.zeros(1, *shape)).values()] == [(6, 28, 28), (16, 10, 10)]


def test_width_keeps_the_proportions() -> None:
    net = LeNet(width=12).build((1, 28, 28), 10)
    assert [len(p) for name, p in net.named_parameters() if name.endswith("bias")] == [12, 32, 240, 168, 10]


@pytest.mark.parametrize(("channels", "least"), [(1, 12), (3, 16)])
def test_the_smallest_image_it_names_is_the_smallest(channels: int, least: int) -> None:
    x = torch.zeros(2, channels, least, least + 9)
    assert LeNet(width=1).build((channels, least, least + 9), 2)(x).shape == (2, 2)
    with input_error(f"lenet does not fit images of {least + 9}x{least - 1} pixels", f"at least {least} pixels"):
        LeNet().build((channels, least + 9, least - 1), 2)
