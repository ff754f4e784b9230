"""The ConvNet: blocks, depth by image size, what does not fit."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from datastill.errors import InputError
from datastill.nets.convnet import ConvNet
from kit import input_error, quick

Shape = tuple[int, int, int]


@pytest.mark.parametrize(("shape", "depth"), [((3, 32, 32), 3), ((1, 28, 28), 3), ((3, 33, 20), 4), ((3, 64, 64), 4),
                                              ((3, 128, 128), 5), ((3, 224, 224), 6)])
def test_depth_follows_the_image_size(shape: Shape, depth: int) -> None:
    with torch.device("meta"):
        taps = ConvNet(width=2).build(shape, 2).taps
    assert list(taps) == [f"block{block}" for block in range(1, depth + 1)]


def test_depth_can_be_chosen() -> None:
    assert list(ConvNet(width=2, depth=2).build((3, 32, 32), 2).taps) == ["block1", "block2"]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_gray_images_of_28_pixels_are_padded_to_32(shape: Shape) -> None:
    net = ConvNet(width=4).build(shape, 2)
    maps = net.maps(torch.zeros(1, *shape))
    assert [value.shape[2:] for value in maps.values()] == [(32, 32), (16, 16), (8, 8)]
    assert net.embed(torch.zeros(1, *shape)).shape == (1, 4 * 4 * 4)


def test_maps_are_taken_after_the_activation_before_pooling() -> None:
    maps = ConvNet(width=4, depth=1).build((3, 8, 8), 2).maps(torch.randn(2, 3, 8, 8))
    assert maps["block1"].shape == (2, 4, 8, 8)
    assert maps["block1"].min() == 0


@pytest.mark.parametrize("pooling", ["none", "avg", "max"])
def test_pooling(pooling: str) -> None:
    net = ConvNet(width=2, depth=1, norm="none", pooling=pooling).build((3, 4, 4), 2)
    x = torch.randn(1, 3, 4, 4)
    block = net.maps(x)["block1"]
    pooled = {"none": block, "avg": nn.functional.avg_pool2d(block, 2), "max": nn.functional.max_pool2d(block, 2)}
    torch.testing.assert_close(net.embed(x), pooled[pooling].flatten(1))


@pytest.mark.parametrize("norm", ["instance", "layer", "group"])
def test_normalized_maps_have_mean_zero(norm: str) -> None:
    net = ConvNet(width=8, depth=1, norm=norm).build((3, 8, 8), 2)
    normed = net.features[:2](torch.randn(2, 3, 8, 8))
    across = {"instance": normed.flatten(2), "layer": normed.flatten(1), "group": normed.reshape(2, 4, -1)}[norm]
    assert across.mean(-1).abs().max() < 1e-5


@pytest.mark.parametrize(("activation", "lowest"), [
    ("relu", 0.0), ("sigmoid", 0.0), ("leakyrelu", -1.0), ("swish", -0.3)])
def test_activations(activation: str, lowest: float) -> None:
    net = ConvNet(width=8, depth=1, activation=activation).build((3, 8, 8), 2)
    block = net.maps(torch.randn(2, 3, 8, 8))["block1"]
    assert block.min() >= lowest
    assert (block.min() < 0) == (lowest < 0)


def refusal(net: ConvNet, shape: Shape) -> str:
    """The text of the error where the network does not fit; else it is seen to work."""
    try:
        built = net.build(shape, 2)
    except InputError as error:
        return str(error)
    assert built.eval()(torch.randn(2, *shape)).isfinite().all()
    return ""


@quick
@given(st.sampled_from([1, 3]), st.integers(1, 20), st.integers(1, 20), st.integers(0, 8),
       st.sampled_from(["instance", "none", "batch"]), st.sampled_from(["avg", "none"]))
def test_it_fits_or_the_advice_does(
        channels: int, height: int, width: int, depth: int, norm: str, pooling: str) -> None:
    shape = (channels, height, width)
    net = ConvNet(width=2, depth=depth, norm=norm, pooling=pooling)
    text = refusal(net, shape)
    if advised := re.search(r"use depth=(\d+)", text):
        assert refusal(net.model_copy(update={"depth": int(advised[1])}), shape) == "", "the advice does not work"
    assert "\n" not in text


def test_what_does_not_fit_is_explained() -> None:
    with input_error("network convnet does not fit images of 8x8 pixels", "instance", "use depth=3 or less"):
        ConvNet(depth=4).build((3, 8, 8), 10)
    with input_error("network convnet does not fit images of 8x8 pixels", "block 4", "use depth=3 or less"):
        ConvNet(depth=8, norm="batch").build((3, 8, 8), 10)


def test_a_width_that_groups_cannot_share_is_explained() -> None:
    with input_error("width", "4"):
        ConvNet(width=6, norm="group").build((3, 32, 32), 10)
