"""The tuned protocol: its recipe follows the network, its learning rates rise and fall, batch statistics are recomputed."""

import pytest
import torch
from torch import nn

from datastill.core import Protocol
from datastill.data import Batch
from datastill.description import load
from datastill.nets.convnet import ConvNet
from datastill.nets.mlp import MLP
from datastill.nets.resnet18 import ResNet18
from datastill.protocols.tuned import OTHERS, RECIPES, Tuned
from datastill.rng import RNG
from datastill.train import Fixed, half_cosine
from kit import input_error

EXAMPLES = Fixed(Batch(RNG(1).normal(12, 3, 8, 8), torch.eye(3).repeat(4, 1)))


def trained(protocol: Tuned, described: ConvNet | MLP = MLP(width=8)) -> nn.Module:
    with RNG(2).as_global():
        net = described.build((3, 8, 8), 3)
    protocol.for_network(described).train(net, EXAMPLES, RNG(0))
    return net


def test_what_is_left_open_comes_from_the_networks_family() -> None:
    for network in (ConvNet(width=4), MLP(), ResNet18()):
        filled = Tuned().for_network(network)
        assert None not in (filled.optimizer, filled.lr, filled.warmup, filled.statistics)
    given = Tuned(lr=0.5, optimizer="sgd").for_network(ConvNet())
    assert (given.lr, given.optimizer) == (0.5, "sgd")


def test_every_family_of_the_zoo_has_a_recipe_of_the_same_keys() -> None:
    for recipe in RECIPES.values():
        assert set(recipe) <= set(OTHERS)
    assert {"convnet", "mlp", "lenet", "alexnet", "vgg11", "resnet18", "vit"} <= set(RECIPES)


def test_batch_normalization_may_have_its_own() -> None:
    plain, batch = (Tuned().for_network(ConvNet(norm=norm)) for norm in ("instance", "batch"))
    assert batch.statistics == RECIPES["convnet, batch norm"]["statistics"]
    assert plain.statistics == "running"


def test_without_a_network_it_says_what_to_do() -> None:
    with input_error("for_network"):
        Tuned().train(nn.Flatten(), EXAMPLES, RNG(0))


def test_step_sizes_rise_and_fall() -> None:
    rates = half_cosine(1.0, 10, 0.3)
    assert rates[:3] == pytest.approx([0.25, 0.5, 0.75])
    assert rates[3] == 1.0
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0 < rates[-1] < 0.1
    assert half_cosine(1.0, 1, 0.0) == [1.0]
    assert len(half_cosine(1.0, 1, 0.9)) == 1


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_learns(optimizer: str) -> None:
    net = trained(Tuned(optimizer=optimizer, lr=0.01, warmup=0.1, epochs=60, augment="none"))  # type: ignore[arg-type]
    assert (net(EXAMPLES.x).argmax(1) == EXAMPLES.y.argmax(1)).all()


def test_recomputed_statistics_are_those_of_the_images_without_augmentation() -> None:
    network = ConvNet(width=4, depth=1, norm="batch")
    net = trained(Tuned(epochs=3, statistics="recomputed"), network)
    convolved = net.features.conv1(EXAMPLES.x)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(net.features.norm1.running_mean, convolved.mean((0, 2, 3)))  # type: ignore[union-attr]
    running = trained(Tuned(epochs=3, statistics="running"), network)
    assert not torch.allclose(running.features.norm1.running_mean, convolved.mean((0, 2, 3)))  # type: ignore[union-attr]


def test_none_in_a_table_leaves_it_open() -> None:
    assert load(Protocol, "tuned:lr=none").lr is None  # type: ignore[type-abstract, attr-defined]
    assert Tuned(full_epochs=5).for_full_data().epochs == 5
