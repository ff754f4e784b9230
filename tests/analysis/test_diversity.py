"""Disagreement and linear CKA: closed forms, invariances, a pool."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny
from datastill.analysis.diversity import diversity, linear_cka
from datastill.description import load
from datastill.rng import RNG
from datastill.teachers import Context, Pool, Teachers
from kit import input_error


@pytest.mark.parametrize("n", [5, 50])  # fewer images than features, and more
def test_cka_is_one_for_the_same_up_to_rotation_scale_and_shift(n: int) -> None:
    a = RNG("a").normal(n, 12)
    turn, _ = torch.linalg.qr(RNG("turn").normal(12, 12))
    assert float(linear_cka(a, a)) == pytest.approx(1)
    assert float(linear_cka(a, 3 * a @ turn + 5)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("n", "d"), [(5, 12), (50, 12)])
def test_cka_is_the_formula(n: int, d: int) -> None:
    a, b = RNG("a").normal(n, d).double(), RNG("b").normal(n, d - 3).double()
    center = torch.eye(n, dtype=torch.double) - 1 / n
    k, m = center @ a @ a.T @ center, center @ b @ b.T @ center
    torch.testing.assert_close(linear_cka(a, b), (k * m).sum() / (k.norm() * m.norm()))
    torch.testing.assert_close(linear_cka(a, b), linear_cka(b, a))


def test_cka_of_orthogonal_and_of_constant_features_is_zero() -> None:
    a, b = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert float(linear_cka(a, b)) == pytest.approx(0)
    assert float(linear_cka(a, torch.ones(4, 3))) == 0


def test_a_pool(tmp_path: Path) -> None:
    where = Context(tiny.splits().train, tmp_path, tmp_path)
    pool = load(Pool, {**tiny.POOL, "networks": [tiny.NETWORK, "mlp:width=8"], "epochs": 4, "batch_size": 64})  # type: ignore[type-abstract]
    pool.prepare(where)
    found = diversity(Teachers(pool, where), tiny.splits().validation, 100)  # type: ignore[arg-type]
    assert found.disagreement.shape == found.cka.shape == (4, 4)
    torch.testing.assert_close(found.cka.diagonal(), torch.ones(4, dtype=torch.double))
    assert torch.equal(found.disagreement.diagonal(), torch.zeros(4, dtype=torch.double))
    assert torch.equal(found.disagreement, found.disagreement.T)
    assert found.cka[0, 1] > found.cka[0, 2]  # of one kind they are more alike
    assert found.mean(found.disagreement) == pytest.approx(float(found.disagreement.sum()) / 12)
    assert (found.accuracy[:2] > 0.3).all()
    one = diversity(Teachers(load(Pool, {**tiny.POOL, "count": 1}), where), tiny.splits().train, 10)  # type: ignore[type-abstract]
    assert one.mean(one.cka) != one.mean(one.cka)  # NaN: there is no pair
    with input_error("no images to compare"):
        diversity(Teachers(pool, where), tiny.splits().train.subset(torch.zeros(0, dtype=torch.long)))


def test_of_another_label_space_there_is_no_accuracy(tmp_path: Path) -> None:
    train = tiny.splits().train
    import numpy as np
    few = train.targets < 2
    np.savez(tmp_path / "few.npz", x_train=train.pixels[few].permute(0, 2, 3, 1).numpy(), y_train=train.targets[few].numpy())
    pool = load(Pool, {**tiny.POOL, "batch_size": 32, "data": {"source": "npz", "path": str(tmp_path / "few.npz")}})  # type: ignore[type-abstract]
    where = Context(train, tmp_path, tmp_path)
    pool.prepare(where)
    found = diversity(Teachers(pool, where), train, 50)
    assert found.accuracy.isnan().all()
    assert (found.disagreement >= 0).all()
