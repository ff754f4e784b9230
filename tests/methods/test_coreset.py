"""Random real images: of the right class, all different, drawn by the stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import datastill as ds
import tiny
from datastill.run import check_run
from kit import Told, input_error


def test_images_are_real_and_different_within_a_class(tmp_path: Path) -> None:
    run = tiny.run("coreset", ipc=5)
    batch = tiny.distill(run, tmp_path).batch()
    real = tiny.splits().train.batch(torch.arange(len(tiny.splits().train)))
    for c in range(10):
        mine, pool = batch.x[batch.y.argmax(1) == c].flatten(1), real.x[real.y.argmax(1) == c].flatten(1)
        assert ((mine[:, None] - pool[None]).abs().sum(2) < 1e-6).any(1).all()
        assert len({tuple(row.tolist()) for row in mine}) == 5


def test_seed_decides(tmp_path: Path) -> None:
    a, b = (tiny.distill(tiny.run("coreset", seed=s), tmp_path / str(s)).batch().x for s in (0, 1))
    assert not torch.equal(a, b)


def test_every_image_can_be_drawn() -> None:
    run = tiny.run("coreset")
    task = tiny.task(run)
    counts = len(task.real.of_class[3])
    drawn = task.random_real(counts, ds.RNG(0))
    assert len({tuple(x.flatten().tolist()) for x in drawn.x[drawn.y.argmax(1) == 3]}) == len(
        {tuple(x.flatten().tolist()) for x in task.real.batch(task.real.of_class[3]).x})


@pytest.mark.parametrize("choose", ["herding", "nearest", "k_center"])
def test_chosen_by_features_images_are_real_and_better_spread_than_by_chance(choose: str, tmp_path: Path) -> None:
    """Herding: the mean image of a class is closer to the true one; nearest: so is each image; k-center: none is far from a chosen one."""
    run = tiny.run("coreset", ipc=10, method_options={"choose": choose}, network="mlp:width=16")
    chosen, real = tiny.distill(run, tmp_path / "a").batch(), tiny.splits().train.batch(torch.arange(len(tiny.splits().train)))
    drawn = tiny.distill(tiny.run("coreset", ipc=10), tmp_path / "b").batch()

    def spread(batch: ds.Batch) -> float:
        total = 0.0
        for c in range(10):
            mine, pool = batch.x[batch.y.argmax(1) == c].flatten(1), real.x[real.y.argmax(1) == c].flatten(1)
            distances = torch.cdist(mine, pool, compute_mode="donot_use_mm_for_euclid_dist")
            assert (distances.min(1).values < 1e-3).all()
            total += float({"herding": (mine.mean(0) - pool.mean(0)).norm(), "k_center": distances.min(0).values.max(),
                            "nearest": (mine - pool.mean(0)).norm(dim=1).mean()}[choose])
        return total

    assert spread(chosen) < spread(drawn)


def test_the_training_for_features_is_told_of() -> None:
    told = Told()
    run = tiny.run("coreset", method_options={"choose": "herding", "epochs": 2})
    task = replace(tiny.task(run), progress=told)
    run.method.start(task, 1, ds.RNG(0))
    assert told.steps == [(1, 2), (2, 2)]
    assert task == tiny.task(run)  # being told does not make it another task


def test_k_center_from_a_random_image() -> None:
    sets = [tiny.run("coreset", ipc=2, seed=seed, method_options={"choose": "k_center", "first": first, "epochs": 1})
            for first, seed in (("nearest", 0), ("random", 0), ("random", 1))]
    images = [run.method.start(tiny.task(run), 2, ds.RNG(run.seed)).decode() for run in sets]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[2])
    assert torch.equal(images[1], sets[1].method.start(tiny.task(sets[1]), 2, ds.RNG(0)).decode())
    with input_error("method.first=random is for k_center"):
        check_run(tiny.run("coreset", method_options={"choose": "herding", "first": "random"}), tiny.splits().train, root=tiny.ROOT)
