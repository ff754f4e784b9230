"""The door to timm: the stem, the maps, what is refused, and how it is told that timm is missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch

from datastill.description import load
from datastill.nets import Architecture
from datastill.nets.timm import Timm
from datastill.rng import RNG
from kit import input_error

with_timm = pytest.mark.skipif(not find_spec("timm"), reason="timm is not installed")
QUICK = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet", "test_nfnet", "resnet18",
         "regnety_002", "ghostnet_050", "swin_tiny_patch4_window7_224", "deit_tiny_distilled_patch16_224")


def test_a_missing_library_is_told_when_a_network_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the description is read, so that a card can be read everywhere."""
    monkeypatch.setitem(sys.modules, "timm", None)
    described = load(Architecture, "timm:model=resnet50")  # type: ignore[type-abstract]
    with input_error("timm:model=resnet50", "pip install -e '.[timm]'"):
        described.build((3, 32, 32), 10)


@with_timm
@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 64)], ids=str)
def test_maps_and_features(name: str, shape: tuple[int, int, int]) -> None:
    net, x = Timm(model=name).build(shape, 7), RNG("x").normal(2, *shape)
    maps = net.maps(x)
    torch.testing.assert_close(net.classifier(net.embed(x)), net(x))
    assert net(x).shape == (2, 7)
    assert all(value.ndim == 4 and value.shape[2] == value.shape[3] for value in maps.values())
    assert list(maps) == list(net.taps)


@with_timm
@pytest.mark.parametrize(("side", "stem", "sides"), [
    (32, "auto", [32, 32, 16, 8, 4]), (64, "auto", [64, 64, 32, 16, 8]), (96, "auto", [48, 24, 12, 6, 3]),
    (32, "original", [16, 8, 4, 2, 1])])
def test_the_stem_follows_the_image_size(side: int, stem: str, sides: list[int]) -> None:
    with torch.device("meta"):
        maps = Timm(stem=stem).build((3, side, side), 7).maps(torch.zeros(2, 3, side, side))
    assert [value.shape[-1] for value in maps.values()] == sides


@with_timm
def test_what_does_not_fit_is_explained() -> None:
    with input_error("network timm:model=inception_v4 does not fit images of 32x32 pixels", "common sizes that fit (pixels per side): 64"), torch.device("meta"):
        Timm(model="inception_v4").build((3, 32, 32), 7)
    with input_error("test_vit", "stem=auto"):
        Timm(model="test_vit", stem="small").build((3, 32, 32), 7)
    with input_error("declares 2 feature maps but returns 4", "choose another"):
        Timm(model="coat_tiny").build((3, 32, 32), 7)


@with_timm
def test_unknown_names_are_refused_when_read() -> None:
    with input_error("resnet19", "did you mean 'resnet"):
        load(Architecture, "timm:model=resnet19")  # type: ignore[type-abstract]
    with input_error("no network model='zzzzzz'", "timm.list_models()"):
        load(Architecture, "timm:model=zzzzzz")  # type: ignore[type-abstract]
