"""Checkpoints of training without labels: read under the names of the wild, frozen, with a classifier of ours."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import datastill as ds
import tiny
from datastill.description import load
from datastill.nets.cifar_resnet import CifarResNet
from datastill.nets.torchvision import Torchvision
from datastill.teachers import Pool, Teachers
from datastill.teachers._weights import fill_body
from kit import input_error


def few() -> ds.Images:
    return tiny.splits().train.subset(torch.arange(200))


def resnet() -> tuple[nn.Module, dict[str, Tensor]]:
    """A network of torchvision's, and its weights in torchvision's names, without those of the classifier."""
    with ds.RNG("moco").as_global():
        network = Torchvision().build((1, 8, 8), 10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
    return network, {name.removeprefix("features."): value.clone() for name, value in network.state_dict().items()
                     if name.startswith("features.")}


def taught(path: Path, root: Path, **options: Any) -> Teachers:
    pool = load(Pool, {"kind": "probed", "networks": ["torchvision:model=resnet18"], "files": [path], "probe_epochs": 2, **options})  # type: ignore[type-abstract]
    return pool.fit(few(), root=root)


FORMS: dict[str, Any] = {
    "plain": lambda w: w,
    "moco": lambda w: {"arch": "resnet18", "state_dict": {
        **{f"module.encoder_q.{name}": value for name, value in w.items()}, "module.encoder_q.fc.0.weight": torch.randn(4, 4),
        **{f"module.encoder_k.{name}": torch.randn_like(value.float()) for name, value in w.items()}, "module.queue": torch.randn(4, 8)}},
    "moco_v3": lambda w: {"state_dict": {**{f"module.base_encoder.{name}": value for name, value in w.items()},
                                         "module.predictor.0.weight": torch.randn(3, 3)}},
    "ours": lambda w: {f"features.{name}": value for name, value in w.items()}}


@pytest.mark.parametrize("form", FORMS)
def test_the_body_is_theirs_and_the_classifier_ours(form: str, tmp_path: Path) -> None:
    network, weights = resnet()
    torch.save(FORMS[form](weights), tmp_path / "checkpoint.pth")
    teacher = taught(tmp_path / "checkpoint.pth", tmp_path / "out")[0]
    for name, value in network.state_dict().items():
        if name.startswith("features.") and not name.endswith("num_batches_tracked"):
            assert torch.equal(teacher.network.state_dict()[name], value), name
    assert not torch.equal(teacher.network.classifier.weight, network.classifier.weight)  # type: ignore[union-attr]
    assert 0 <= teacher.facts["accuracy"] <= 1
    assert "statistics" in teacher.gives


def test_another_file_is_another_teacher(tmp_path: Path) -> None:
    _, weights = resnet()
    places = []
    for number in range(2):
        weights["conv1.weight"] = weights["conv1.weight"] + 0.1 * number
        torch.save(weights, tmp_path / f"{number}.pth")
        places.append(taught(tmp_path / f"{number}.pth", tmp_path / "out")[0].folder)
    shutil.copy(tmp_path / "1.pth", tmp_path / "copy.pth")
    places.append(taught(tmp_path / "copy.pth", tmp_path / "out")[0].folder)
    assert places[0] != places[1]
    assert places[1] == places[2]


def test_bad_input(tmp_path: Path) -> None:
    _, weights = resnet()
    with input_error("needs the checkpoint of each network", "pool.files="):
        load(Pool, {"kind": "probed", "networks": ["torchvision:model=resnet18"]}).fit(few(), root=tmp_path)  # type: ignore[type-abstract]
    with input_error("files: expected one for each of 2 networks, got 1"):
        load(Pool, {"kind": "probed", "networks": ["mlp", "lenet"], "files": ["a.pth"]})  # type: ignore[type-abstract]
    with input_error("no file"):
        taught(tmp_path / "none.pth", tmp_path / "out")
    torch.save({**weights, "layer1.0.conv1.weight": torch.zeros(3, 3)}, tmp_path / "odd.pth")
    with input_error("odd.pth", "layer1.0.conv1.weight", "(3, 3)"):
        taught(tmp_path / "odd.pth", tmp_path / "out")
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with input_error("other.pth", "no tensor features.conv1.weight"):
        taught(tmp_path / "other.pth", tmp_path / "out")


def test_a_larger_network_is_another_one(tmp_path: Path) -> None:
    """What a checkpoint has beside the network are heads and queues, never more blocks of the network itself."""
    for depth, form in ((32, ""), (32, "encoder_q."), (20, "")):
        theirs = CifarResNet(depth=depth).build((3, 16, 16), 10).state_dict()
        weights = {form + name.replace("features.", ""): value for name, value in theirs.items()}
        if depth == 20:
            fill_body(CifarResNet().build((3, 16, 16), 10), {**weights, "projector.0.weight": torch.ones(2)}, "x.pth")
            continue
        with input_error("x.pth: ", "does not have", "weights are from a larger one"):
            fill_body(CifarResNet().build((3, 16, 16), 10), weights, "x.pth")
