"""Meta features: what several networks see alike, in a run and in real images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import datastill as ds
import tiny
from datastill.analysis.meta_features import MetaFeatures, Seen, check_networks, maps_of, of_run, summary
from datastill.description import load
from datastill.functional.cam import grad_cam, normalized_maps
from datastill.report.meta_features import gallery, render
from datastill.teachers import Pool, Teachers
from kit import input_error

POOL = {**tiny.POOL, "networks": [tiny.NETWORK, "convnet:width=4,depth=1"], "count": 1}


def some(name: str, count: int = 4) -> Seen:
    maps = torch.rand(3, count, 8, 8, generator=torch.Generator().manual_seed(count))
    view = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (count, 8, 8, 1), dtype=np.uint8))
    return Seen(name, maps, np.arange(count) % 2, view)


def found() -> MetaFeatures:
    return MetaFeatures(("a", "b", "<c>"), (True, False, False), ("cat", "<dog>"), some("real images", 6), {0: some("iteration 0"), 9: some("iteration 9", 2)})


def test_maps_are_the_networks_own() -> None:
    run = tiny.run()
    task, pool = tiny.task(run), load(Pool, POOL)  # type: ignore[type-abstract]
    pool.prepare(task.context)
    batch = task.real.batch(torch.arange(5))
    for teacher in Teachers(pool, task.context):
        wanted = normalized_maps(grad_cam(teacher.network, batch.x, batch.y.argmax(1)).maps, (8, 8))
        torch.testing.assert_close(maps_of(teacher, batch.x, batch.y.argmax(1)), wanted)


def test_of_a_run_and_who_was_seen(tmp_path: Path) -> None:
    run = tiny.run()
    tiny.distill(run, tmp_path / "run")
    task, pool = tiny.task(run), load(Pool, POOL)  # type: ignore[type-abstract]
    check_networks(pool, task.context)
    got = of_run(tmp_path / "run", run, task, Teachers(pool, task.context), count=20)
    assert got.known == (True, False)
    assert list(got.run) == [0, 3]
    assert got.real.maps.shape == (2, 20, 8, 8)
    assert got.run[3].maps.shape == (2, 10, 8, 8)
    assert list(got.groups) == ["all"]
    pooled = run.model_copy(update={"method": run.method.model_copy(update={"networks": tuple(pool.networks[1:])})})
    assert of_run(tmp_path / "run", pooled, task, Teachers(pool, task.context), count=20).known == (False, True)


def test_numbers() -> None:
    one = found()
    assert list(one.groups.items()) == [("unseen", [1, 2]), ("all", [0, 1, 2])]
    rows = summary(one)
    assert len(rows) == 2 * 3 * 3
    maps = one.real.maps >= 0.5
    assert rows[3]["overlap"] == pytest.approx(float((maps[1] & maps[2]).sum() / (maps[1] | maps[2]).sum()))
    pairs = one.pairs(one.real)
    assert (pairs == pairs.T).all()
    assert (np.diag(pairs) == 1).all()


def test_the_page() -> None:
    page = render(found(), "outputs/<run>")
    assert "outputs/&lt;run&gt;" in page
    assert "&lt;c&gt;, not seen by the run" in page
    assert [len(images) for row in gallery(found()) for images in row.of.values()] == [4] * 6


def test_bad_input(tmp_path: Path) -> None:
    context = tiny.task(tiny.run()).context
    for networks, says in (([tiny.NETWORK], "takes at least two"), ([tiny.NETWORK, tiny.NETWORK], "takes at least two"), ([tiny.NETWORK, "mlp"], "no feature map")):
        with input_error(says):
            check_networks(load(Pool, {**POOL, "networks": networks}), context)  # type: ignore[type-abstract]
    tiny.distill(tiny.run(), tmp_path / "run")
    for path in (tmp_path / "run" / "snapshots").iterdir():
        path.unlink()
    with input_error("has no snapshots"):
        of_run(tmp_path / "run", tiny.run(), tiny.task(tiny.run()), Teachers(load(Pool, POOL), context))  # type: ignore[type-abstract]
    assert ds.load(tmp_path / "run")
