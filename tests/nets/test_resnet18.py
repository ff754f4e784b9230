"""ResNet-18: stages, and the smallest image."""

from __future__ import annotations

import pytest
import torch

from datastill.nets.resnet18 import ResNet18
from kit import input_error


def test_stages_halve_the_side_and_double_the_channels() -> None:
    maps = ResNet18(width=2).build((3, 32, 32), 10).maps(torch.randn(2, 3, 32, 32))
    assert {tap: tuple(value.shape[1:]) for tap, value in maps.items()} == {
        "stem": (2, 32, 32), "layer1": (2, 32, 32), "layer2": (4, 16, 16), "layer3": (8, 8, 8), "layer4": (16, 4, 4)}


def test_the_embedding_is_the_mean_of_the_last_map() -> None:
    net, x = ResNet18(width=2).build((3, 32, 32), 10), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net.embed(x), net.maps(x)["layer4"].mean((2, 3)))


@pytest.mark.parametrize("norm", ["instance", "layer"])
def test_the_smallest_image_it_names_is_the_smallest(norm: str) -> None:
    net = ResNet18(width=1, norm=norm)
    assert net.build((1, 9, 9), 2).maps(torch.randn(2, 1, 9, 9))["layer4"].shape[2:] == (2, 2)
    with input_error("network resnet18 does not fit images of 8x20 pixels", "more than 8 pixels", "norm=batch"):
        net.build((1, 8, 20), 2)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 3, 5)])
def test_batch_normalization_fits_where_it_says_so(shape: tuple[int, int, int]) -> None:
    assert ResNet18(width=2, norm="batch").build(shape, 2)(torch.randn(2, *shape)).shape == (2, 2)


def test_pooling_keeps_the_last_map_as_features() -> None:
    net, x = ResNet18(width=2, downsample="pool").build((3, 28, 20), 10), torch.randn(2, 3, 28, 20)
    maps = net.maps(x)
    assert {tap: tuple(value.shape[1:]) for tap, value in maps.items()} == {
        "stem": (2, 28, 20), "layer1": (2, 28, 20), "layer2": (4, 14, 10), "layer3": (8, 7, 5), "layer4": (16, 3, 2)}
    torch.testing.assert_close(net.embed(x), maps["layer4"].flatten(1))


def test_pooling_has_no_strides() -> None:
    net = ResNet18(width=1, downsample="pool").build((3, 32, 32), 10)
    assert {m.stride for m in net.modules() if isinstance(m, torch.nn.Conv2d)} == {(1, 1)}


@pytest.mark.parametrize(("norm", "least", "advice"), [
    ("instance", 16, "norm=batch"), ("layer", 16, "norm=batch"), ("batch", 8, "downsample=stride")])
def test_the_smallest_image_with_pooling(norm: str, least: int, advice: str) -> None:
    net = ResNet18(width=1, norm=norm, downsample="pool")
    assert net.build((3, least, least), 2)(torch.randn(2, 3, least, least)).isfinite().all()
    with input_error(f"images of {least - 1}x20 pixels", f"at least {least} pixels per side", advice):
        net.build((3, least - 1, 20), 2)


def test_a_width_that_groups_cannot_share_is_explained() -> None:
    with input_error("width", "4"):
        ResNet18(width=6, norm="group").build((3, 32, 32), 10)
