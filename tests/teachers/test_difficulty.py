"""Scores under a pool: means over its networks, by hand; classes that only the teacher knows; what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from datastill.data.domain import domain_of
from datastill.description import load
from datastill.nets import fresh
from datastill.nets.mlp import MLP
from datastill.rng import RNG
from datastill.teachers import Context, Pool, Teacher, Teachers
from datastill.teachers._difficulty import difficulty, of_real
from datastill.teachers.pool import frozen
from kit import input_error, toy_images

EARLY = {"kind": "early", "networks": ["mlp:width=8"], "count": 3, "epochs": 4, "batch_size": 64}


def pool(**settings: Any) -> Pool:
    return load(Pool, {**EARLY, **settings})  # type: ignore[type-abstract]


@pytest.fixture(scope="module")
def teachers() -> Teachers:
    where = Context(tiny.splits().train, tiny.ROOT, tiny.ROOT)
    one = pool()
    one.prepare(where)
    return Teachers(one, where)


def test_early_networks_are_stored_after_every_epoch_and_see_all_images(teachers: Teachers) -> None:
    early: Any = teachers.pool
    assert early.kept == (0, 1, 2, 3, 4)
    assert early.rates == [0.01] * 4
    assert teachers[0].facts["accuracy"] is None  # nothing is held out


def test_means_over_the_networks(teachers: Teachers) -> None:
    batch = tiny.splits().train.batch(torch.arange(0, 40))
    found = difficulty(teachers, batch.x, batch.y)
    assert list(found) == ["gradn", "el2n", "misclassified"]
    norms, errors, wrong = [], [], []
    for teacher in teachers:
        logits = teacher.logits(batch.x)
        errors.append((logits.softmax(1) - batch.y).norm(dim=1))
        wrong.append((logits.argmax(1) != batch.y.argmax(1)).float())
        parameters = [one.requires_grad_() for one in teacher.network.parameters()]
        norms.append(torch.stack([torch.cat([g.flatten() for g in torch.autograd.grad(
            F.cross_entropy(teacher.logits(batch.x[i:i + 1]), batch.y[i:i + 1]), parameters)]).norm() for i in range(40)]))
        for one in parameters:
            one.requires_grad_(False)
    for name, values in (("gradn", norms), ("el2n", errors), ("misclassified", wrong)):
        assert found[name].dtype == torch.float64  # type: ignore[index]
        torch.testing.assert_close(found[name].float(), torch.stack(values).mean(0), rtol=1e-4, atol=1e-5)  # type: ignore[index]


def test_forgetting_by_hand(teachers: Teachers) -> None:
    batch = tiny.splits().train.batch(torch.arange(0, 200))
    found = difficulty(teachers, batch.x, batch.y, ["forgetting"])["forgetting"]
    counts = torch.zeros(200)
    for number in range(3):
        right = []
        for epoch in (1, 2, 3, 4):
            network = Teachers(pool(epoch=epoch), teachers.context)[number]
            right.append(network.logits(batch.x).argmax(1) == batch.y.argmax(1))
        for image in range(200):
            own = [bool(one[image]) for one in right]
            counts[image] += sum(a and not b for a, b in pairwise(own)) if any(own) else 4
    torch.testing.assert_close(found.float(), counts / 3)
    assert found.max() > 0


def test_a_run_on_some_of_the_classes_that_teachers_know() -> None:
    """By the outputs of these classes, in the run's order."""
    images = toy_images(3, 4)
    net = frozen(fresh(MLP(width=8), (1, 4, 4), 3, RNG(0), torch.device("cpu")))
    there = domain_of(images)
    one = Teacher("one", 0, net, there, replace(there, classes=("c", "a")))

    class Few:
        pool = pool()

        def __iter__(self) -> Iterator[Teacher]:
            return iter([one])

    x, y = images.batch(torch.arange(6)).x, F.one_hot(torch.tensor([0, 1] * 3), 2).float()
    found = difficulty(Few(), x, y)  # type: ignore[arg-type]
    logits = net(x)[:, [2, 0]]
    torch.testing.assert_close(found["el2n"].float(), (logits.softmax(1) - y).norm(dim=1))
    weights = [parameter.requires_grad_() for parameter in net.parameters()]
    loss = F.cross_entropy(one.class_logits(x[:1]), y[:1])
    norm = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, weights)]).norm()
    torch.testing.assert_close(found["gradn"][0].float(), norm.detach(), rtol=1e-4, atol=1e-6)


def test_kept_on_disk_and_computed_again_if_damaged(teachers: Teachers, tmp_path: Path) -> None:
    where = Context(teachers.context.real, tmp_path, tmp_path)
    one = pool(count=1)
    one.prepare(where)
    mine, few = Teachers(one, where), where.real.subset(torch.arange(50))
    found = of_real(mine, few, "el2n")
    (path,) = (tmp_path / "difficulty").glob("el2n-*.npy")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    assert np.array_equal(of_real(mine, few, "el2n"), found)
    batch = few.batch(torch.arange(50))
    assert np.array_equal(found, difficulty(mine, batch.x, batch.y)["el2n"].numpy())


@pytest.mark.parametrize("settings", [{"epochs": 1}, {"snapshots": (4,)}])
def test_forgetting_needs_several_epochs(settings: dict[str, Any], teachers: Teachers) -> None:
    batch = tiny.splits().train.batch(torch.arange(4))
    with input_error("needs teachers stored after several epochs", "pool of kind early", "snapshots=every"):
        difficulty(Teachers(pool(**settings), teachers.context), batch.x, batch.y, ["forgetting"])
