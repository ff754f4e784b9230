"""What every network by name has to be: logits, features and maps; a function of its stream; fit or explained."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datastill.data import Images
from datastill.description import load
from datastill.nets import Architecture, Network, as_function, check_network, chunk_size, couples_samples, fresh, network
from datastill.nets.cifar_resnet import CifarResNet
from datastill.registry import find, names
from datastill.rng import RNG
from kit import Counting, input_error

CPU = torch.device("cpu")
DOORS = {"torchvision": {"model": "shufflenet_v2_x0_5"}, "timm": {"model": "test_resnet"}}  # to libraries; a quick network
NAMES = [name for name in names(Architecture) if name != "timm" or find_spec("timm")]
ZOO = [name for name in NAMES if name not in DOORS]
SHAPES = [(3, 32, 32), (1, 28, 28), (3, 32, 20), (3, 64, 64)]
FITTING = [(name, shape) for name in NAMES for shape in SHAPES if (name, shape) != ("vgg11", (3, 32, 20))]
each_name = pytest.mark.parametrize("name", NAMES)
each_of_the_zoo = pytest.mark.parametrize("name", ZOO)
each_that_fits = pytest.mark.parametrize(("name", "shape"), FITTING, ids=str)


def architecture(name: str, **options: Any) -> Architecture:
    """Narrow, so that it is quick."""
    return find(Architecture, name)(**{**DOORS.get(name, {"width": 8}), **options})  # type: ignore[return-value]


def made(name: str, shape: tuple[int, int, int] = (3, 32, 32), seed: int = 0, **options: Any) -> Any:
    return fresh(architecture(name, **options), shape, 7, RNG(seed), CPU)


def images(n: int, shape: tuple[int, int, int]) -> Tensor:
    return RNG("x").normal(n, *shape)


@each_that_fits
def test_logits_features_and_maps_fit_together(name: str, shape: tuple[int, int, int]) -> None:
    net, x = made(name, shape), images(2, shape)
    features, maps = net.embed(x), net.maps(x)
    assert net(x).shape == (2, 7)
    assert features.shape == (2, features.shape[1])
    torch.testing.assert_close(net.classifier(features), net(x))
    assert list(maps) == list(net.taps)
    assert maps
    assert all(len(value) == 2 and value.ndim in (2, 4) and value.isfinite().all() for value in maps.values())


@each_name
def test_features_come_from_the_maps_in_order_of_depth(name: str) -> None:
    net, x = made(name), images(2, (3, 32, 32))
    sides = [value.shape[-1] for value in net.maps(x).values() if value.ndim == 4]
    assert sides == sorted(sides, reverse=True)
    for value in net.maps(x.requires_grad_()).values():
        assert torch.autograd.grad(value.sum(), x, retain_graph=True)[0].abs().sum() > 0


@each_name
def test_maps_are_not_overwritten_on_the_way(name: str) -> None:
    net, x = made(name), images(2, (3, 32, 32))
    together = net.maps(x)
    kept: dict[str, Tensor] = {}
    for tap, stage in net.taps.items():
        net.features.get_submodule(stage).register_forward_hook(
            lambda *call, tap=tap: kept.__setitem__(tap, call[2].clone()))
    net(x)
    assert all(torch.equal(together[tap], as_map(kept[tap], together[tap].shape)) for tap in together)


def as_map(output: Tensor, shape: torch.Size) -> Tensor:
    """Tokens (B, N, D), a class token first, as the map (B, D, H, W); everything else as it is."""
    return output if output.shape == shape else output[:, -shape[2:].numel():].transpose(1, 2).reshape(shape)


@each_that_fits
def test_the_default_size_builds(name: str, shape: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        load(Architecture, name).build(shape, 10)  # type: ignore[type-abstract]


@each_of_the_zoo
def test_width_changes_the_size(name: str) -> None:
    counts = [sum(p.numel() for p in find(Architecture, name)(width=width).build((3, 32, 32), 7).parameters())
              for width in (2, 4, 8)]
    assert counts == sorted(set(counts))


@each_of_the_zoo
@pytest.mark.parametrize("width", [0, -3])
def test_no_width_is_refused(name: str, width: int) -> None:
    with input_error("width", "greater than or equal to 1"):
        load(Architecture, f"{name}:width={width}")  # type: ignore[type-abstract]


@each_name
def test_a_fresh_network_is_a_function_of_its_stream(name: str) -> None:
    torch.manual_seed(1)
    first = made(name).state_dict()
    torch.manual_seed(2)
    again, other = made(name).state_dict(), made(name, seed=1).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not all(torch.equal(value, other[key]) for key, value in first.items())


@each_name
def test_making_a_network_leaves_the_global_generator_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    made(name)
    assert torch.equal(torch.random.get_rng_state(), before)


@each_name
def test_a_fresh_network_is_in_training_mode_and_learns_every_parameter(name: str) -> None:
    net = made(name)
    assert net.training
    net(images(4, (3, 32, 32))).square().sum().backward()
    assert [key for key, p in net.named_parameters() if p.grad is None] == []


@each_name
def test_the_gradient_of_the_weights_can_be_differentiated_by_the_images(name: str) -> None:
    """As methods that match gradients do."""
    net, x = made(name), images(2, (3, 32, 32)).requires_grad_()
    gradients = torch.autograd.grad(net(x).square().mean(), list(net.parameters()), create_graph=True)
    by_images, = torch.autograd.grad(sum(g.square().sum() for g in gradients), x)
    assert by_images.isfinite().all()
    assert by_images.abs().sum() > 0


@each_name
def test_nothing_is_random_or_changed_in_a_forward(name: str) -> None:
    net, x = made(name), images(2, (3, 32, 32))
    assert torch.equal(net(x), net(x))
    net.eval()
    kept = x.clone()
    assert torch.equal(net(x), net(x))
    assert torch.equal(x, kept)


NORMED = [(name, norm) for name in NAMES for norm in ("none", "instance", "batch", "layer", "group", None)
          if ("norm" in find(Architecture, name).model_fields) == (norm is not None)]


@pytest.mark.parametrize(("name", "norm"), NORMED)
def test_couples_samples_tells_whether_an_image_depends_on_its_batch(name: str, norm: str | None) -> None:
    net, x = made(name, **({} if norm is None else {"norm": norm})), images(3, (3, 32, 32))
    with torch.no_grad():
        alone, together = torch.cat([net.embed(image) for image in x.split(1)]), net.embed(x)
    independent = torch.allclose(alone, together, atol=1e-4)
    has = norm == "batch" or name in DOORS or find(Architecture, name) is CifarResNet  # those have batch normalization
    assert couples_samples(net) == (not independent) == has


class Bare(Architecture):
    """A user's architecture that lacks ``maps``."""

    width: int = 3
    sizes: list[int] = [2, 3]  # noqa: RUF012  pydantic copies it

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        class WithoutMaps(nn.Module):
            def embed(self, x: Tensor) -> Tensor:
                return x

        return WithoutMaps()


class Lists(Bare):
    """A user's architecture with a field that cannot be hashed."""

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        hidden = nn.Linear(shape[0] * shape[1] * shape[2], 5)
        return Network(nn.Sequential(nn.Flatten(), hidden), nn.Linear(5, classes), {})


def test_a_network_without_what_methods_need_is_explained() -> None:
    with input_error("WithoutMaps", "maps(x)", "width=4"):
        fresh(Bare(width=4), (1, 4, 4), 2, RNG(0), CPU)


@pytest.mark.parametrize("described", [*map(architecture, NAMES), Lists()], ids=[*NAMES, "outside"])
def test_a_chunk_is_some_images_and_fewer_where_they_are_larger(described: Architecture) -> None:
    small, large = (chunk_size(fresh(described, (3, side, side), 7, RNG(0), CPU).eval(),
                               torch.zeros(1, 3, side, side).expand(10**6, -1, -1, -1)) for side in (32, 64))
    assert 1 <= large <= small < 10**6


def test_a_chunk_is_never_more_than_the_images_and_the_look_leaves_no_trace() -> None:
    net = made("convnet", (3, 16, 16), norm="batch")
    x = torch.randn(5, 3, 16, 16)
    assert chunk_size(net, x) == 5
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.eval()
    net.features[1].training = False
    modes = [m.training for m in net.modules()]
    assert chunk_size(net, x) == 5
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


def test_batch_normalization_couples_images_only_while_it_trains() -> None:
    net = made("convnet", (3, 16, 16), norm="batch")
    assert couples_samples(net)
    assert not couples_samples(net.eval())


def test_an_image_is_seen_as_it_is_normalized() -> None:
    """Networks take what Images draw: float, normalized, on the device."""
    pixels = torch.arange(2 * 16 * 16).remainder(256).byte().view(2, 1, 16, 16)
    drawn = Images(pixels, torch.tensor([0, 1]), ("a", "b"), (0.5,), (0.5,))
    assert made("mlp", drawn.shape)(drawn.batch(torch.tensor([0, 1])).x).shape == (2, 7)


def test_a_network_as_a_function_of_its_weights() -> None:
    net = load(Architecture, "convnet:width=4,depth=2").build((3, 8, 8), 5)  # type: ignore[type-abstract]
    weights, predict = as_function(net)
    x = RNG("x").normal(2, 3, 8, 8)
    torch.testing.assert_close(predict(weights, x), net(x))
    assert weights.shape == (sum(p.numel() for p in net.parameters()),)
    assert not torch.allclose(predict(weights * 1.1, x), net(x))
    leaf = weights.clone().requires_grad_()
    (found,) = torch.autograd.grad(predict(leaf, x).square().sum(), leaf)
    wanted = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in wanted]))


def test_a_network_is_looked_at_once_for_the_size_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all networks of an architecture, at one size of image: what is remembered says what a look would say."""
    looks: list[int] = []
    maps = Network.maps
    monkeypatch.setattr(Network, "maps", lambda self, x: (looks.append(x.shape[2]), maps(self, x))[1])
    monkeypatch.setattr(network, "_LARGEST", {})
    many = {side: torch.zeros(1, 3, side, side).expand(10**6, -1, -1, -1) for side in (32, 64)}
    sizes = [chunk_size(made("convnet", (3, side, side), seed, norm="none", width=width), many[side])
             for seed in range(3) for side in (32, 64) for width in (4, 8)]
    assert sizes == sizes[:4] * 3
    assert sizes[:4] == [network.BLOCK // (4 * width * side**2) for side in (32, 64) for width in (4, 8)]
    assert looks == [32, 32, 64, 64]
    other = architecture("convnet", norm="none").build((3, 32, 32), 7)  # made otherwise
    assert [chunk_size(other, many[32]) for _ in range(3)] == [sizes[1]] * 3
    assert looks[4:] == [32]


@each_name
def test_a_network_goes_to_a_device_in_one_copy(name: str) -> None:
    with Counting() as counting:
        there = fresh(architecture(name), (3, 32, 32), 7, RNG(0), torch.device("meta"))
    assert counting.seen["transfer"] == 1
    here = made(name).state_dict()
    assert {key: (value.shape, value.dtype, value.device.type) for key, value in there.state_dict().items()} == \
        {key: (value.shape, value.dtype, "meta") for key, value in here.items()}


def test_what_was_sent_in_one_piece_is_what_it_was() -> None:
    """Values, types and ties between layers; it can be trained in place."""
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).double()
    net[2].weight = net[0].weight
    net.register_buffer("mask", torch.tensor([True, False, True]))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    moved = network._moved(net, CPU)
    assert all(torch.equal(value, before[key]) for key, value in moved.state_dict().items())
    assert [value.dtype for value in moved.state_dict().values()] == [value.dtype for value in before.values()]
    assert len({value.untyped_storage().data_ptr() for value in moved.state_dict().values()}) == 1
    assert moved[2].weight is moved[0].weight
    moved(torch.ones(2, 3).double()).square().sum().backward()
    torch.optim.SGD(moved.parameters(), 0.1).step()
    changed = {key for key, value in moved.state_dict().items() if not torch.equal(value, before[key])}
    assert "mask" not in changed
    assert {"0.weight", "1.num_batches_tracked", "2.bias"} <= changed


@pytest.mark.parametrize("given", ["vit:depth=100,width=16384", "mlp:width=16384", "convnet:width=16384,depth=3"])
def test_weights_that_do_not_fit_are_refused_before_they_are_created(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.memory, "total", lambda device: 2**28)
    with input_error(f"network {given.partition(':')[0]}", "for its weights alone", "choose a smaller one"):
        check_network(load(Architecture, given), (3, 32, 32), 10, torch.device("cpu"))  # type: ignore[type-abstract]
    check_network(load(Architecture, "convnet"), (3, 32, 32), 10, torch.device("cpu"))  # type: ignore[type-abstract]
