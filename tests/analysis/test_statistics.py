"""What normalization remembers: measures by hand, the rescaling that changes nothing, the page of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import datastill as ds
import tiny
from datastill.analysis.statistics import (
    MEASURES,
    SCALE_FREE,
    Layer,
    control,
    informative,
    layers,
    measures,
    of_network,
    rescaled,
)
from datastill.nets.cifar_resnet import CifarResNet
from datastill.nets.resnet18 import ResNet18
from datastill.report.statistics import named, render
from kit import input_error


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("statistics") / "run"
    tiny.distill(tiny.run("recover"), folder)
    return folder


def warm(net: nn.Module) -> nn.Module:
    with ds.RNG("warm").as_global():
        for _ in range(4):
            net.train()(2 * torch.randn(16, 3, 16, 16) + 1)
    return net.eval()


def test_measures_by_hand() -> None:
    layer = Layer("one", np.array([1.0, -1.0, 3.0, 1.0]), np.array([4.0, 1.0, 9.0, 4.0]), 0.0)
    found = measures(layer)
    assert list(found) == list(MEASURES)
    assert found["spread of means"] == pytest.approx(np.std([1, -1, 3, 1]))
    assert found["mean variance"] == 4.5
    assert found["spread of variances"] == pytest.approx(np.std([4, 1, 9, 4]))
    assert found["entropy"] == pytest.approx(np.mean(0.5 * np.log(2 * np.pi * np.e * layer.var)))
    assert found["spread of means, scale-free"] == pytest.approx(np.std([0.5, -1, 1, 0.5]))
    assert found["spread of variances, scale-free"] == pytest.approx(np.std([4, 1, 9, 4]) / 4.5)
    assert measures(Layer("even", np.ones(5), np.full(5, 3.0), 0.0))["evenness of variances"] == pytest.approx(1.0)
    assert measures(Layer("alone", np.ones(1), np.ones(1), 0.0))["evenness of variances"] == 1.0


@pytest.mark.parametrize("network", [CifarResNet(), ResNet18(width=4, norm="batch"), ds.find(ds.Architecture, "convnet")(width=4, norm="batch")])
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_rescaled_network_is_the_same_function(network: ds.Architecture, factor: float) -> None:
    with ds.RNG("net").as_global():
        net = warm(network.build((3, 16, 16), 5)).double()
    x = torch.randn(4, 3, 16, 16, dtype=torch.double)
    before, after = of_network(net), of_network(rescaled(net, factor))
    torch.testing.assert_close(rescaled(net, factor)(x), net(x), rtol=1e-6, atol=1e-6)
    for name in SCALE_FREE:
        assert after[name] == pytest.approx(before[name], rel=1e-5)
    assert after["spread of means"] == pytest.approx(factor * before["spread of means"], rel=1e-5)
    for name in ("mean variance", "spread of variances"):
        assert after[name] == pytest.approx(factor**2 * before[name], rel=1e-5)
    assert after["entropy"] == pytest.approx(before["entropy"] + np.log(factor), rel=1e-5)
    assert layers(net)[0].eps == 1e-5  # the network itself stays as it was


def test_a_run_with_its_signals_and_the_control(run: Path) -> None:
    task = tiny.task(tiny.run("recover"))
    found = informative(run, task)
    (name,) = found.teachers
    assert [one.name for one in found.teachers[name][0]] == ["features.norm1", "features.norm2"]
    assert found.signals["statistics"][0] == [1, 2, 3]
    assert found.signals["gradient.statistics"][0] == [1]
    held = found.controls[name]
    assert held.logits < 1e-4
    assert held.scale_free == pytest.approx(1.0, rel=1e-4)
    assert 2.0 <= held.raw <= 4.0
    assert held.measures["mean variance"] == pytest.approx(4.0, rel=1e-4)
    page = render([found])
    assert "The control" in page
    assert "Gradient of the statistics" in page
    assert page.count("<svg") == len(MEASURES) + 2 + 4


def test_bad_input(run: Path, tmp_path: Path) -> None:
    with input_error("no batch normalization"):
        layers(nn.Flatten())
    folder = tmp_path / "dm"
    tiny.distill(tiny.run(), folder)
    with input_error("method distribution has no teachers", "such as sre2l"):
        informative(folder, tiny.task(tiny.run()))
    pool = {"kind": "classifier", "networks": [tiny.NETWORK], "epochs": 1, "batch_size": 512}
    plain = tiny.run("recover", method_options={"weight": 0.0, "pool": pool})
    tiny.distill(plain, tmp_path / "plain")
    with input_error("has no batch normalization"):
        informative(tmp_path / "plain", tiny.task(plain))
    assert control(tiny.task(tiny.run("recover")).teachers(tiny.run("recover").method.pool)[0], tiny.task(tiny.run("recover"))).raw > 1  # type: ignore[attr-defined]


def test_networks_of_the_same_architecture_are_told_apart(run: Path, tmp_path: Path) -> None:
    """By how they were trained: that is what the page compares."""
    of = tiny.run("recover")
    other = of.model_copy(update={"method": of.method.model_copy(update={"pool": of.method.pool.model_copy(update={"lr": 0.05})})})  # type: ignore[attr-defined]
    tiny.distill(other, tmp_path / "other")
    found = [informative(run, tiny.task(of)), informative(tmp_path / "other", tiny.task(other))]
    assert len(named(found)) == 2
    assert all("classifier" in name for name in named(found))
