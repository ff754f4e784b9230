"""The door to torchvision: every series of networks, the stem, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models

from datastill.description import load
from datastill.digest import spec
from datastill.errors import InputError
from datastill.nets import Architecture, fresh
from datastill.nets._foreign import ForeignNetwork
from datastill.nets.torchvision import SERIES, Torchvision
from datastill.rng import RNG
from kit import input_error

Shape = tuple[int, int, int]
QUICK = ("resnet18", "densenet121", "shufflenet_v2_x0_5", "googlenet", "regnet_y_400mf", "mobilenet_v2", "efficientnet_b0",
         "mnasnet0_5", "convnext_tiny", "swin_t")  # heavier ones are built without memory, below
HEAVY = ("alexnet", "vgg11", "inception_v3", "vit_b_16", "maxvit_t", "wide_resnet50_2", "resnext50_32x4d")
KNOWN = [name for name in models.list_models(module=models) if not name.startswith("squeezenet")]


@pytest.mark.parametrize("name", QUICK)
def test_maps_and_features_for_gray_images(name: str) -> None:
    net, x = Torchvision(model=name).build((1, 32, 32), 7), RNG("x").normal(2, 1, 32, 32)
    logits, features, maps = net(x), net.embed(x), net.maps(x)
    torch.testing.assert_close(net.classifier(features), logits)
    assert logits.shape == (2, 7)
    assert list(maps) == list(net.taps)
    assert all(value.ndim == 4 and value.shape[2] == value.shape[3] for value in maps.values())
    sides = [value.shape[-1] for value in maps.values()]
    assert sides == sorted(sides, reverse=True)


@pytest.mark.parametrize("name", QUICK)
def test_maps_are_what_the_modules_give_and_stay_so(name: str) -> None:
    net, x = Torchvision(model=name).build((3, 32, 32), 7), RNG("x").normal(2, 3, 32, 32)
    kept = {}
    for tap in net.taps:
        net.features.get_submodule(tap).register_forward_hook(
            lambda *call, tap=tap: kept.__setitem__(tap, call[2].clone()))
    for tap, value in net.maps(x).items():
        assert torch.equal(value, kept[tap].permute(0, 3, 1, 2) if name == "swin_t" else kept[tap])


@pytest.mark.parametrize("name", KNOWN)
def test_every_network_has_a_series(name: str) -> None:
    load(Architecture, f"torchvision:model={name}")  # type: ignore[type-abstract]


@pytest.mark.parametrize("name", HEAVY)
def test_every_series_fits_its_own_size(name: str) -> None:
    """Without memory: shapes only."""
    with torch.device("meta"):
        net = Torchvision(model=name).build((3, 224, 224), 7)
        maps = net.maps(torch.zeros(2, 3, 224, 224))
        assert net(torch.zeros(2, 3, 224, 224)).shape == (2, 7)
    assert maps
    assert all(value.ndim == 4 and value.shape[2] == value.shape[3] for value in maps.values())


def test_all_series_are_covered() -> None:
    assert [start for start in SERIES if not any(name.startswith(start) for name in QUICK + HEAVY)] == []


@pytest.mark.parametrize(("side", "stem", "sides"), [
    (32, "auto", [32, 16, 8, 4]), (64, "auto", [64, 32, 16, 8]), (96, "auto", [24, 12, 6, 3]),
    (32, "original", [8, 4, 2, 1]), (96, "small", [96, 48, 24, 12])])
def test_the_stem_follows_the_image_size(side: int, stem: str, sides: list[int]) -> None:
    with torch.device("meta"):
        maps = Torchvision(stem=stem).build((3, side, side), 7).maps(torch.zeros(2, 3, side, side))
    assert [value.shape[-1] for value in maps.values()] == sides


@pytest.mark.parametrize("name", ["resnet50", "vgg11_bn", "densenet121", "efficientnet_b0"])
def test_the_original_is_torchvisions_own(name: str) -> None:
    with torch.device("meta"):
        mine = Torchvision(model=name, stem="original").build((3, 64, 64), 10)
        theirs = models.get_model(name, weights=None, num_classes=10)
    assert [p.shape for p in mine.parameters()] == [p.shape for p in theirs.parameters()]


def test_the_original_gives_torchvisions_logits() -> None:
    with RNG(0).as_global():
        theirs = models.resnet18(weights=None, num_classes=10)
    mine = fresh(Torchvision(stem="original"), (3, 40, 40), 10, RNG(0), torch.device("cpu"))
    x = RNG("x").normal(2, 3, 40, 40)
    torch.testing.assert_close(mine(x), theirs(x))


@pytest.mark.parametrize("name", ["mobilenet_v2", "swin_t", "efficientnet_b0"])
def test_there_is_no_dropout_and_nothing_in_place(name: str) -> None:
    with torch.device("meta"):
        net = Torchvision(model=name).build((3, 32, 32), 7)
    assert all(m.p == 0 for m in net.modules() if isinstance(m, nn.Dropout) or type(m).__name__ == "StochasticDepth")
    assert not any(getattr(m, "inplace", False) for m in net.modules())


def test_a_network_of_a_stream_does_not_depend_on_what_was_built_before() -> None:
    """The first of a kind is tried on an image, later ones are not."""
    described = Torchvision(model="shufflenet_v2_x0_5", stem="small")
    first, second = (fresh(described, (3, 24, 24), 7, RNG(0), torch.device("cpu")).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_attention_can_be_differentiated_twice() -> None:
    net = ForeignNetwork(models.vision_transformer.EncoderBlock(2, 8, 16, 0.0, 0.0), nn.Linear(8, 2), {})
    x = torch.randn(1, 3, 8, requires_grad=True)
    gradient, = torch.autograd.grad(net.embed(x).square().sum(), x, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), x)[0].isfinite().all()


@pytest.mark.parametrize(("name", "shape"), [("alexnet", (3, 32, 32)), ("vgg11", (1, 28, 28)), ("maxvit_t", (3, 32, 32)),
                                             ("vit_b_16", (3, 32, 16))])
def test_what_does_not_fit_is_explained_with_what_does(name: str, shape: Shape) -> None:
    with torch.device("meta"):
        with pytest.raises(InputError) as caught:
            Torchvision(model=name).build(shape, 7)
        begin, _, fits = str(caught.value).partition("; common sizes that fit (pixels per side): ")
        assert f"network torchvision:model={name} does not fit images of {shape[1]}x{shape[2]} pixels" in begin
        side = int(fits.split(", ")[0])
        Torchvision(model=name).build((shape[0], side, side), 7)


def test_unknown_names_are_refused_when_read() -> None:
    with input_error("resnet19", "did you mean 'resnet1"):
        load(Architecture, "torchvision:model=resnet19")  # type: ignore[type-abstract]
    with input_error("squeezenet1_0"):
        load(Architecture, "torchvision:model=squeezenet1_0")  # type: ignore[type-abstract]
    with input_error("stem=small", "vgg11", "stem=auto"):
        load(Architecture, "torchvision:model=vgg11,stem=small")  # type: ignore[type-abstract]


def test_the_short_form_is_read_back() -> None:
    described = Torchvision(model="resnet50", stem="small")
    assert spec(described) == "torchvision:model=resnet50,stem=small"
    assert load(Architecture, spec(described)) == described  # type: ignore[type-abstract]
