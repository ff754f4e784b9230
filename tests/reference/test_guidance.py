"""CLoM and CCLoM against the original implementation: loss and pixel gradient of three steps, and the formulas written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datastill.core import Step
from datastill.data import Batch, Images
from datastill.data.domain import Domain, domain_of
from datastill.functional.guidance import class_distance_share
from datastill.nets.convnet import ConvNet
from datastill.plugins.cclom import CCLoM
from datastill.plugins.clom import CLoM
from datastill.rng import RNG
from datastill.task import Task
from datastill.teachers import Teacher
from reference.golden import Golden, error, set_parameters


def teacher(golden: Golden, number: int, home: Domain) -> Teacher:
    config = golden.config
    net = ConvNet(width=config["width"], depth=config["depth"]).build((config["ch"], config["im"], config["im"]), config["C"])
    set_parameters(net.double(), golden.list(f"in.param{number}"))
    return Teacher("golden", 0, net.eval().requires_grad_(False), home, home)


def images(golden: Golden) -> Images:
    config = golden.config
    pixels = torch.zeros(1, config["ch"], config["im"], config["im"], dtype=torch.uint8)
    return Images(pixels, torch.zeros(1, dtype=torch.long), tuple("abcdef"[:config["C"]]), (0.5,) * 3, (0.5,) * 3)


def step(golden: Golden) -> Step:
    x = golden["in.syn"].double().requires_grad_()
    y = F.one_hot(golden["in.syn_label"], golden.config["C"]).double()
    return Step(torch.zeros(()), Batch(x, y), nn.Identity())


@pytest.mark.parametrize("chunk", [2, 5, 100])
@pytest.mark.parametrize("call", range(3))
def test_clom(call: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = Golden("clom")
    real = images(golden)
    one = teacher(golden, int(golden["in.model"][call]), domain_of(real))
    monkeypatch.setattr(Teacher, "chunk", lambda self, x: chunk)
    given = step(golden)
    loss = golden.config["alpha"] * CLoM().term(one, given, Task(real, ConvNet()), RNG(0))
    assert error(loss, golden["out.loss"][call]) <= 1e-9
    assert error(torch.autograd.grad(loss, given.batch.x)[0], golden[f"out.grad{call}"]) <= 1e-9


@pytest.mark.parametrize("chunk", [2, 5, 100])
@pytest.mark.parametrize("call", range(3))
def test_cclom(call: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = Golden("cclom")
    real = images(golden)
    one = teacher(golden, int(golden["in.model"][call]), domain_of(real))
    rows = golden["in.real_index"][call]
    directions = F.normalize(one.embed(golden["in.real"].double()), dim=1).numpy()
    monkeypatch.setattr(Teacher, "chunk", lambda self, x: chunk)
    monkeypatch.setattr(Teacher, "directions", lambda self, real: directions)
    given = step(golden)
    targets = Images(real.pixels, golden["in.real_label"], real.classes, real.mean, real.std)

    class Drawn(RNG):
        """The draw of the golden values."""

        def numpy(self) -> Any:
            return type("Rows", (), {"integers": lambda self, n, size: rows.numpy()})()

    loss = golden.config["alpha"] * CCLoM().term(one, given, Task(targets, ConvNet()), Drawn(0))
    assert error(loss, golden["out.loss"][call]) <= 1e-9
    assert error(torch.autograd.grad(loss, given.batch.x)[0], golden[f"out.grad{call}"]) <= 1e-9


def written_out(features: Tensor, y: Tensor, real: Tensor, real_y: Tensor) -> Tensor:
    distance = 1 - F.cosine_similarity(features[:, None], real[None], dim=2)
    return (y @ real_y.T * distance).sum() / distance.sum()


def test_the_share_is_the_formula_also_for_soft_labels() -> None:
    rng = RNG("share")
    features, real = rng("a").normal(7, 5).double(), rng("b").normal(9, 5).double()
    y, real_y = rng("c").normal(7, 4).double().softmax(1), F.one_hot(torch.arange(9) % 4, 4).double()
    torch.testing.assert_close(class_distance_share(features, y, real, real_y), written_out(features, y, real, real_y))


@pytest.mark.parametrize("classes", [10, 100])
def test_random_features_give_one_over_k(classes: int) -> None:
    rng = RNG("chance", classes)
    values = [float(class_distance_share(rng("a", i).normal(200, 64), F.one_hot(torch.arange(200) % classes, classes).float(),
                                         rng("b", i).normal(2000, 64), F.one_hot(torch.arange(2000) % classes, classes).float()))
              for i in range(20)]
    mean, spread = torch.tensor(values).mean(), torch.tensor(values).std() / 20**0.5
    assert abs(mean - 1 / classes) < 4 * spread + 1e-6
    assert spread < 0.01 / classes
