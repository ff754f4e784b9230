"""The thin ResNets: sizes of He et al. 2016, shortcuts without parameters, published names of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import datastill as ds
from datastill.description import load
from datastill.nets._cifar_resnet import Block
from datastill.nets.cifar_resnet import CifarResNet
from datastill.rng import RNG
from datastill.teachers._weights import fill, read_weights
from kit import input_error


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)])
def test_parameters_are_those_of_the_paper(depth: int, parameters: int) -> None:
    """Its table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million."""
    net = CifarResNet(depth=depth).build((3, 32, 32), 10)  # type: ignore[arg-type]
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert sum(isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) for m in net.modules()) == depth


def test_maps_and_names() -> None:
    assert load(ds.Architecture, "resnet32") == CifarResNet(depth=32)  # type: ignore[type-abstract]
    maps = CifarResNet().build((3, 32, 32), 10).maps(torch.randn(2, 3, 32, 32))
    assert {tap: tuple(value.shape[1:]) for tap, value in maps.items()} == {
        "stem": (16, 32, 32), "layer1": (16, 32, 32), "layer2": (32, 16, 16), "layer3": (64, 8, 8)}


def test_the_shortcut_is_every_second_pixel_between_zeros() -> None:
    with RNG("block").as_global():
        block = Block(2, 6, 2).eval()
    x = RNG("x").normal(1, 2, 8, 8)
    inner = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    wanted = torch.zeros(1, 6, 4, 4)
    wanted[:, 2:4] = x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), F.relu(inner + wanted))


@pytest.mark.parametrize("counted", [True, False])
def test_weights_under_published_names(tmp_path: Path, counted: bool) -> None:
    """As the files of the wild are: data-parallel prefixes, ``linear`` for the classifier, in older ones no counters."""
    with RNG("theirs").as_global():
        theirs, ours = (CifarResNet().build((3, 16, 16), 10) for _ in range(2))
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
    names = {f"module.{name.replace('features.', '').replace('classifier', 'linear')}": value for name, value in
             theirs.state_dict().items() if counted or "num_batches" not in name}
    assert "module.layer1.0.conv1.weight" in names
    torch.save({"state_dict": names, "best_prec1": 91.0}, tmp_path / "resnet20.th")
    fill(ours, read_weights(tmp_path / "resnet20.th"), "resnet20.th")
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_too_small() -> None:
    with input_error("cifar_resnet", "4x9", "at least 5"):
        CifarResNet().build((3, 4, 9), 10)


@pytest.mark.parametrize(("change", "says"), [
    (lambda w: w.update({"bn1.running_var": -torch.ones(16)}), ("bn1.running_var has variances below 0",)),
    (lambda w: w.update({"conv1.weight": w["conv1.weight"].to(torch.int8)}), ("conv1.weight is of int8", "floating-point")),
    (lambda w: w.pop("bn1.running_mean"), ("no tensor features.bn1.running_mean",)),
    (lambda w: w.pop("layer1.2.conv1.weight"), ("no tensor features.layer1.2.conv1.weight",))])
def test_files_that_are_damaged_name_the_tensor(tmp_path: Path, change: Any, says: tuple[str, ...]) -> None:
    weights = {name.replace("features.", ""): value for name, value in CifarResNet().build((3, 16, 16), 10).state_dict().items()}
    change(weights)
    torch.save(weights, tmp_path / "x.th")
    with input_error(*says):
        fill(CifarResNet().build((3, 16, 16), 10), read_weights(tmp_path / "x.th"), "x.th")
