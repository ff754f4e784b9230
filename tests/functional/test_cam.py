"""Activation maps: gradients checked numerically for convolutions and attention, where they look, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datastill.functional.cam import Cam, activation_map, attention_map, deepest_layer, grad_cam, normalized_maps
from datastill.functional.invariance import distillation, evidence, map_variance, masks
from datastill.nets.convnet import ConvNet
from datastill.nets.timm import Timm
from datastill.nets.torchvision import Torchvision
from datastill.nets.vit import ViT
from datastill.rng import RNG
from kit import input_error


def net(architecture: Any, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 3) -> nn.Module:
    with RNG("cam").as_global():
        found: nn.Module = architecture.build(shape, classes).double().eval().requires_grad_(False)
    for parameter in found.parameters():
        parameter.mul_(3)
    return found


def some(count: int = 2, shape: tuple[int, int, int] = (1, 8, 8)) -> Tensor:
    return RNG("x").normal(count, *shape).double()


CONV = ConvNet(width=4, depth=1, activation="swish")  # smooth, so that finite differences are exact
VIT = ViT(width=8, depth=2, heads=2, patch=2)


@pytest.mark.parametrize(("architecture", "look"), [
    (CONV, grad_cam), (VIT, attention_map), (ViT(width=8, depth=1, heads=2, patch=2, pooling="mean"), attention_map)])
def test_gradients_are_exact(architecture: Any, look: Any) -> None:
    network, y = net(architecture), torch.tensor([2, 0])

    def of(x: Tensor) -> Tensor:
        found: Cam = look(network, x, y)
        return (found.maps * torch.arange(found.maps[0].numel()).view_as(found.maps[0])).sum() + found.logits.square().sum()

    x = some().requires_grad_()
    assert float(look(network, x, y).maps.detach().amax()) > 0
    assert torch.autograd.gradcheck(of, (x,), eps=1e-6, atol=1e-6, rtol=1e-4)


def test_without_weights_the_gradient_is_the_same_for_a_piecewise_linear_head() -> None:
    network, x, y = net(ConvNet(width=4, depth=2)), some().requires_grad_(), torch.tensor([2, 0])
    both = [torch.autograd.grad(grad_cam(network, x, y, through_weights=through).maps.square().sum(), x)[0] for through in (True, False)]
    torch.testing.assert_close(*both)
    assert float(both[0].abs().max()) > 0


def test_attention_in_the_open_is_the_networks_own() -> None:
    network, x = net(VIT), some(3)
    torch.testing.assert_close(attention_map(network, x, torch.tensor([0, 1, 2])).logits, network(x))


def test_attention_of_torchvisions_transformer() -> None:
    network = net(Torchvision(model="vit_b_16"), (3, 32, 32))
    network.classifier.weight.copy_(RNG("head").normal(3, 768))  # torchvision's begins at zero
    found = activation_map(network, some(2, (3, 32, 32)), torch.tensor([0, 2]))
    assert found.maps.shape == (2, 2, 2)
    assert bool((found.maps >= 0).all())
    assert float(found.maps.max()) > 0


# Networks whose forward pass is more than their parts one after the other: flattening, channels last, nested maps.
FOREIGN = [(Torchvision(model="vgg11"), (3, 64, 64), (4, 4)), (Torchvision(model="mobilenet_v2"), (3, 32, 32), (4, 4)),
           (Torchvision(model="swin_t"), (3, 64, 64), (4, 4)), (Torchvision(model="shufflenet_v2_x0_5"), (3, 32, 32), (4, 4)),
           (Torchvision(model="densenet121"), (3, 32, 32), (4, 4)), (Torchvision(model="resnet18"), (3, 32, 32), (4, 4))]


@pytest.mark.parametrize(("architecture", "shape", "size"), FOREIGN, ids=[one.model for one, *_ in FOREIGN])
def test_networks_of_torchvision(architecture: Torchvision, shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    with RNG("cam").as_global():
        network = architecture.build(shape, 3).eval().requires_grad_(False)
    x, y = some(2, shape).float().requires_grad_(), torch.tensor([0, 2])
    found = activation_map(network, x, y)
    assert found.maps.shape == (2, *size)
    torch.testing.assert_close(found.logits, network(x))
    assert float(torch.autograd.grad(found.maps.sum() + found.logits.square().sum(), x)[0].abs().max()) > 0
    for name, one in network.maps(x).items():  # type: ignore[operator]
        if one.dim() == 4 and min(one.shape[2:]) > 1:
            assert activation_map(network, x.detach(), y, name).maps.shape[1:] == one.shape[2:]


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_submodule_of_a_network_with_channels_last_is_arranged_too(library: str) -> None:
    if library == "timm":
        pytest.importorskip("timm")
    architecture, path, size = (Torchvision(model="swin_t"), "features.features.5", (4, 4)) if library == "torchvision" else \
        (Timm(model="swin_tiny_patch4_window7_224"), "features.layers.2", (4, 4))
    with RNG("cam").as_global():
        network = architecture.build((3, 64, 64), 3).eval().requires_grad_(False)
    x, y = some(2, (3, 64, 64)).float(), torch.tensor([0, 2])
    found = grad_cam(network, x, y, path).maps
    assert found.shape[1:] == size
    if library == "torchvision":
        torch.testing.assert_close(found, grad_cam(network, x, y, "features.5").maps)
    conv = "features.features.0.0" if library == "torchvision" else "features.patch_embed.proj"
    assert grad_cam(network, x, y, conv).maps.shape[1:] == (16, 16)


class _Attending(nn.Module):
    """A class token, then 3 x 3 patches of images of 6 pixels; ``how``: arguments of its attention."""

    grid = (3, 3)

    def __init__(self, pooled: str = "class", shared: int = 1, **how: Any) -> None:
        super().__init__()
        self.pooled, self.shared, self.how, self.shift = pooled, shared, how, 0.0
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.project = nn.Conv2d(1, 8, 2, stride=2)
        self.query, self.both, self.head = nn.Linear(8, 8), nn.Linear(8, 16 // shared), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(len(x), -1, -1), self.project(x).flatten(2).transpose(1, 2)], 1)
        query = self.query(torch.cat([tokens[:, :1] + self.shift, tokens[:, 1:]], 1)).unflatten(2, (4, 2)).transpose(1, 2)
        key, value = (one.unflatten(2, (4 // self.shared, 2)).transpose(1, 2) for one in self.both(tokens).chunk(2, 2))
        seen = F.scaled_dot_product_attention(query, key, value, **self.how).transpose(1, 2).flatten(2)
        found: Tensor = self.head(seen[:, 0] if self.pooled == "class" else seen[:, 1:].mean(1))
        return found


def attending(**how: Any) -> nn.Module:
    with RNG("attending").as_global():
        return _Attending(**how).double().eval().requires_grad_(False)


@pytest.mark.parametrize("how", [{"is_causal": True, "pooled": "patches"}, {"shared": 2, "enable_gqa": True}, {"scale": 0.1}])
def test_attention_with_other_arguments_is_the_networks_own(how: dict[str, Any]) -> None:
    network, x = attending(**how), some(3, (1, 6, 6))
    found = attention_map(network, x, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(found.logits, network(x))
    assert found.maps.shape == (3, 3, 3)


def test_attention_that_draws_at_random_is_refused() -> None:
    with input_error("dropout (0.2) in evaluation mode"):
        attention_map(attending(dropout_p=0.2), some(2, (1, 6, 6)), torch.tensor([0, 1]))


def test_a_class_token_that_does_not_lead_to_the_logits_is_not_asked() -> None:
    x, y = some(3, (1, 6, 6)), torch.tensor([0, 1, 2])
    for pooled in ("class", "patches"):
        network = attending(pooled=pooled)
        before = attention_map(network, x, y)
        assert bool(before.maps.any())
        network.shift = 2.0  # of what the class token asks for
        after = attention_map(network, x, y)
        assert torch.allclose(before.logits, after.logits) == torch.allclose(before.maps, after.maps) == (pooled == "patches")


def test_an_activation_in_place_does_not_change_what_is_looked_at() -> None:
    found = []
    for inplace in (False, True):
        with RNG("in place").as_global():
            network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(144, 3)).double().eval()
        x = some().requires_grad_()
        cam = grad_cam(network, x, torch.tensor([0, 1]), "0")
        found.append((cam.maps, *torch.autograd.grad(cam.maps.square().sum(), x)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(("model", "says"), [("resnet18", ""), ("vit_tiny_patch16_224", ""), ("swin_tiny_patch4_window7_224", "nothing leads from")])
def test_networks_of_timm(model: str, says: str) -> None:
    timm = pytest.importorskip("timm")
    assert timm
    with RNG("cam").as_global():
        network = Timm(model=model).build((3, 64, 64), 3).eval().requires_grad_(False)
    x, y = some(2, (3, 64, 64)).float(), torch.tensor([0, 2])
    if says:
        with input_error(says, "name a submodule"):
            activation_map(network, x, y)
        return
    found = activation_map(network, x, y)
    torch.testing.assert_close(found.logits, network(x))
    assert min(found.maps.shape[1:]) >= 4


def test_a_layer_of_a_transformer_by_name() -> None:
    """What follows the last block but one depends on its patches; what follows the last one only on its class token."""
    network, x, y = net(VIT), some(), torch.tensor([0, 2])
    first, last = (grad_cam(network, x, y, f"block{number}") for number in (1, 2))
    assert first.maps.shape == last.maps.shape == (2, 4, 4)
    assert float(first.maps.max()) > 0 == float(last.maps.max())
    torch.testing.assert_close(grad_cam(network, x, y, "features.block1").maps, first.maps)


def test_one_patch_is_refused() -> None:
    with input_error("1 x 1 patches", "smaller patches"):
        activation_map(net(ViT(width=8, depth=1, heads=2, patch=8)), some(), torch.tensor([0, 1]))


def test_it_looks_where_the_class_is() -> None:
    """A network whose class is brightness in one channel sees it where the image is bright."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    network[0].weight.data.fill_(1.0)  # type: ignore[operator, union-attr]
    network[3].weight.data.copy_(torch.tensor([[1.0], [-1.0]]))  # type: ignore[operator, union-attr]
    x = torch.zeros(1, 1, 6, 6).double()
    x[0, 0, 1, 4] = 5
    bright = grad_cam(network, x, torch.tensor([0]), "0").maps[0]
    assert int(bright.argmax()) == 1 * 6 + 4
    assert float(grad_cam(network, x, torch.tensor([1]), "0").maps.max()) == 0


def test_maps_without_a_graph_have_none_and_leave_everything_as_it_was() -> None:
    network, x = net(CONV), some()
    for given in (x, x.clone().requires_grad_()):
        with torch.no_grad():
            found = grad_cam(network, given, torch.tensor([0, 1]))
        assert not found.maps.requires_grad
    assert not x.requires_grad
    assert grad_cam(network, x, torch.tensor([0, 1])).maps.requires_grad is False


def test_flat_maps_become_zero() -> None:
    flat = torch.stack([torch.zeros(4, 4), torch.ones(4, 4), torch.eye(4)]).requires_grad_()
    found = normalized_maps(flat, (8, 8))
    assert found[:2].abs().max() == 0
    assert 0.99 < float(found[2].detach().max()) <= 1
    assert bool(torch.isfinite(torch.autograd.grad(found.sum(), flat)[0]).all())
    for value in (0.3, 1.0, 3.3, 100.0):  # enlarging one value by fractions rounds
        for dtype in (torch.float32, torch.float64):
            even = torch.full((1, 5, 5), value, dtype=dtype).requires_grad_()
            found = normalized_maps(even, (33, 31))
            assert float(found.detach().abs().max()) == 0
            assert float(torch.autograd.grad(found.square().sum(), even)[0].abs().max()) == 0


def test_the_deepest_map_that_tells_places_apart() -> None:
    shapes = {"a": (1, 4, 16, 16), "b": (1, 4, 4, 4), "c": (1, 4, 2, 2), "d": (1, 9)}
    assert deepest_layer(shapes, (32, 32)) == "b"
    assert deepest_layer(shapes, (224, 224)) == "a"
    with input_error("no feature map has 4 rows and columns", "c (4, 2, 2), d (9,)"):
        deepest_layer({"c": (1, 4, 2, 2), "d": (1, 9)}, (32, 32))


class _Two(nn.Module):
    """Gives two things."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.conv(x).mean((2, 3)), 1


def _inferring(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Any:
    with torch.inference_mode():
        return grad_cam(network, x, y)


def _inferred(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Any:
    with torch.inference_mode():
        x = 1 * x
    return grad_cam(network, x, y)


@pytest.mark.parametrize(("call", "says"), [
    (lambda n, x, y: grad_cam(n, x, y[:1]), "class numbers (2,)"), (lambda n, x, y: grad_cam(n, x, y + 3), "the network has 3"),
    (lambda n, x, y: grad_cam(n, x[0], y), "expected images (B, C, H, W)"), (lambda n, x, y: grad_cam(n, x, y, "blok1"), "no layer 'blok1'"),
    (lambda n, x, y: grad_cam(n, x, y, "classifier"), "take an earlier layer, such as 'block1' (4, 12, 12)"),
    (lambda n, x, y: grad_cam(n, x, y > 0), "class numbers (2,)"), (lambda n, x, y: grad_cam("n", x, y), "expected a network"),
    (lambda n, x, y: grad_cam(n, x.expand(-1, 3, -1, -1), y), "cannot take images (2, 3, 8, 8)"), (_inferring, "torch.inference_mode"), (_inferred, "give x.clone()"),
    (lambda n, x, y: grad_cam(_Two().double(), x, y, "conv"), "expected logits (2, K)"), (lambda n, x, y: attention_map(_Two().double(), x, y), "grid = (rows, columns)"),
    (lambda n, x, y: normalized_maps(x[:, 0], 8), "expected a size (H, W), got 8"), (lambda n, x, y: normalized_maps(x[:, 0], (8, 0)), "size"),
    (lambda n, x, y: masks(x.expand(2, 2, 8, 8), "a"), "threshold"), (lambda n, x, y: masks(x.expand(2, 2, 8, 8), True), "threshold"),
    (lambda n, x, y: map_variance(x.expand(2, 2, 8, 8)[:, :0]), "at least one image"), (lambda n, x, y: distillation(x[:, 0, 0], [1]), "two sets of logits"),
    (lambda n, x, y: distillation(x[:, 0, 0], x[:, 0, 0], "1"), "temperature"), (lambda n, x, y: distillation(x[:0, 0, 0], x[:0, 0, 0]), "two sets of logits"),
    (lambda n, x, y: distillation(x[:, 0, 0], x[:, 0, 0], math.nan), "temperature"), (attention_map, "not over its patches"),
    (lambda n, x, y: grad_cam(nn.Flatten(), x, y), "name a submodule"), (lambda n, x, y: attention_map(nn.Flatten(), x, y), "grid = (rows, columns)"),
    (lambda n, x, y: normalized_maps(x, (8, 8)), "expected maps (B, h, w)"), (lambda n, x, y: map_variance(x[:1]), "at least 2 networks, got those of 1"),
    (lambda n, x, y: evidence(x[0]), "expected maps (M, B, H, W)"), (lambda n, x, y: masks(x.expand(2, 2, 8, 8)[None].squeeze(0), 1.5), "threshold"),
    (lambda n, x, y: distillation(x[:, 0, 0], x[:1, 0, 0]), "two sets of logits"), (lambda n, x, y: distillation(x[:, 0, 0], x[:, 0, 0], 0.0), "temperature")])
def test_what_does_not_fit_is_refused(call: Any, says: str) -> None:
    with input_error(says):
        call(net(ConvNet(width=4, depth=1)), some(), torch.tensor([0, 1]))


def test_variance_with_and_without_flat_maps() -> None:
    maps = torch.rand(3, 4, 5, 5)
    maps[0, 2] = 0
    assert float(map_variance(maps, skip_flat=True)) < float(map_variance(maps))
    torch.testing.assert_close(map_variance(maps[:, :2], skip_flat=True), map_variance(maps[:, :2]))
    torch.testing.assert_close(map_variance(maps), maps.var(0, correction=0).mean())


def test_an_image_of_which_a_network_sees_nothing_does_not_count_where_all_see() -> None:
    maps = torch.zeros(2, 3, 2, 2)
    maps[:, 0, 0] = 1.0  # two places, both networks
    maps[1, 0, 1] = 1.0  # two more, one of them
    maps[0, 1] = 1.0  # the second image: only the first network; the third: none
    seen = masks(maps)
    assert seen.empty.tolist() == [[False, False], [False, True], [True, True]]
    assert seen.overlap == 2 / 8
    assert seen.common == 2 / 4
    nothing = masks(torch.zeros(2, 3, 2, 2))
    assert math.isnan(nothing.overlap)
    assert math.isnan(nothing.common)
    assert math.isnan(masks(maps[:, 1:]).common)


def test_which_map_a_network_gets() -> None:
    x, y = some(), torch.tensor([0, 1])
    assert activation_map(net(VIT), x, y).maps.shape == (2, 4, 4)
    assert activation_map(net(CONV), x, y).maps.shape == (2, 12, 12)  # one channel is padded to 12
