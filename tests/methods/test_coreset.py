"""Random real images: of the right class, all different, drawn by the stream."""

from __future__ import annotations

from pathlib import Path

import torch

import datastill as ds
import tiny


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
