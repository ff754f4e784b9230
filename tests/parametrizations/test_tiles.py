"""Tiles: several images in one, at the start from real ones; what does not divide is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill.description import load
from datastill.functional.tiles import tiled, untiled
from datastill.parametrization import Parametrization
from datastill.parametrizations.tiles import Tiles
from datastill.run import check_run
from datastill.running import begin
from kit import input_error


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("order", ["rows", "columns"])
def test_what_is_put_together_is_taken_apart_again(factor: int, order: Any) -> None:
    """Images that are constant over each block of pixels are the same small and large."""
    levels = torch.randn(3, factor**2, 2, 1, 1)
    x = levels.expand(3, factor**2, 2, 8, 8)
    stored = tiled(x, factor, order)
    assert stored.shape == (3, 2, 8, 8)
    torch.testing.assert_close(untiled(stored, factor, order), x)


def test_the_order_of_the_tiles() -> None:
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])[None, None]
    assert untiled(x, 2, "rows")[0, :, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert untiled(x, 2, "columns")[0, :, 0, 0, 0].tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("options", [{}, {"factor": 4}, {"order": "columns"}, {"shrink": "mean"}, {"factor": 1}])
def test_a_set_starts_from_real_images_made_small(options: dict[str, Any]) -> None:
    run = tiny.run("coreset", ipc=2, parametrization={"kind": "tiles", **options}, method_options={"choose": "random"})
    task = tiny.task(run)
    codec = run.parametrization
    assert isinstance(codec, Tiles)
    synthetic = begin(run, task).synthetic
    assert synthetic.stored == 20
    assert len(synthetic) == 20 * codec.factor**2
    x, y = synthetic.batch()
    assert torch.equal(y.argmax(1), torch.arange(10).repeat_interleave(2 * codec.factor**2))
    stored = synthetic.images["tiles"]
    assert stored.shape == (20, 1, 8, 8)
    assert len({tuple(one.flatten().tolist()) for one in x.reshape(20 * codec.factor**2, -1)}) > 0.9 * len(x) / (4 if codec.factor == 4 else 1)
    rows = torch.tensor([5, 0, 5, len(x) - 1])
    torch.testing.assert_close(synthetic.decode(rows), x[rows])


def test_no_image_is_stored_twice_and_every_class_has_its_own() -> None:
    run = tiny.run("coreset", ipc=3, parametrization="tiles", method_options={"choose": "random"})
    task = tiny.task(run)
    seen: list[int] = []
    real = task.real
    known = {tuple(tiled(real.batch(torch.tensor([row])).x[:, None].expand(1, 4, 1, 8, 8), 2)[0, 0, :4, :4].flatten().tolist()): row
             for row in range(len(real))}
    stored = begin(run, task).synthetic.images["tiles"]
    for number, one in enumerate(stored):
        for place in (one[0, :4, :4], one[0, :4, 4:], one[0, 4:, :4], one[0, 4:, 4:]):
            row = known[tuple(place.flatten().tolist())]
            assert int(real.targets[row]) == number // 3
            seen.append(row)
    assert len(set(seen)) > 0.9 * len(seen)  # digits may be equal when small


def test_every_tile_is_what_the_method_starts_from() -> None:
    """Noise is noise in all tiles; a coreset has four times as many images, made small; repeats only where images lack."""
    noise = begin(run := tiny.run("distribution", ipc=2, parametrization="tiles", method_options={"init": "noise"}), tiny.task(run)).synthetic
    assert float(noise.images["tiles"].detach().std()) > 0.9
    assert len(noise.images["tiles"].detach().unique()) == 20 * 64
    chosen = tiny.run("coreset", ipc=2, parametrization="tiles", method_options={"choose": "herding"})
    whole = tiny.run("coreset", ipc=8, method_options={"choose": "herding"})
    found, plain = (begin(one, tiny.task(one)).synthetic for one in (chosen, whole))
    torch.testing.assert_close(found.images["tiles"], tiled(plain.decode().unflatten(0, (-1, 4)), 2))
    assert torch.equal(found.labels, torch.eye(10).repeat_interleave(2, 0))
    few = tiny.splits().train
    few = few.subset(torch.cat([of_class[:4] for of_class in few.of_class]).sort().values)
    once = tiny.run("coreset", parametrization="tiles", method_options={"choose": "random"})
    stored = begin(once, once.task(few, root=tiny.ROOT)).synthetic.images["tiles"]
    assert len(torch.cat([one.unflatten(1, (2, 4)).unflatten(3, (2, 4)).permute(1, 3, 0, 2, 4).flatten(0, 1) for one in stored]).flatten(1).unique(dim=0)) > 35


def test_shards_of_tiles_are_the_whole(tmp_path: Path) -> None:
    """Recovered from noise: each pass has its own stream, whichever shard it is in."""
    whole = begin(run := tiny.run("recover", ipc=4, parametrization="tiles"), tiny.task(run))
    whole.advance()
    parts = []
    for number in range(2):
        part = run.model_copy(update={"shard": (number, 2)})
        loop = begin(part, part.task(tiny.splits().train, root=tiny.ROOT))
        loop.advance()
        parts.append(loop.synthetic.images["tiles"].detach().view(10, 2, 1, 8, 8))
    assert torch.equal(torch.cat(parts, 1).flatten(0, 1), whole.synthetic.images["tiles"].detach())


def test_means_of_pixels_as_idm_makes_them() -> None:
    x = torch.randn(3, 4, 1, 8, 8)
    wanted = torch.nn.functional.interpolate(x.flatten(0, 1), scale_factor=0.5, mode="bilinear").unflatten(0, (3, 4))
    torch.testing.assert_close(tiled(x, 2, "rows", "mean")[:, :, :4, :4], wanted[:, 0])


def test_what_the_factor_does_not_divide(tmp_path: Path) -> None:
    with input_error("factor 3 does not divide images of 8x8 pixels", "parametrization.factor=2, 4, 8"):
        check_run(tiny.run(parametrization="tiles:factor=3"), tiny.splits().train, root=tmp_path)
    with input_error("factor"):
        load(Parametrization, "tiles:factor=0")  # type: ignore[type-abstract]
    with input_error("factor 9 cuts images of 8 pixels into nothing"):
        untiled(torch.zeros(1, 1, 8, 8), 9)
    with input_error("expected 4 images each"):
        tiled(torch.zeros(1, 3, 1, 8, 8), 2)
    with input_error("order: expected rows or columns, got 'diag'"):
        untiled(torch.zeros(1, 1, 8, 8), 2, "diag")  # type: ignore[arg-type]
    with input_error("shrink: expected nearest or mean, got 'median'"):
        tiled(torch.zeros(1, 4, 1, 8, 8), 2, "rows", "median")  # type: ignore[arg-type]
    for factor in (2.0, "2", None):
        with input_error("factor: expected a whole number"):
            untiled(torch.zeros(1, 1, 8, 8), factor)  # type: ignore[arg-type]
    with input_error("does not divide"):
        tiled(torch.zeros(1, 9, 1, 8, 8), 3)


@pytest.mark.parametrize("name", ["distribution", "gradient", "trajectory", "recover"])
def test_any_method_learns_tiles(name: str, tmp_path: Path) -> None:
    run = tiny.run(name, parametrization="tiles")
    tiny.distill(run, tmp_path / "set")
    done = ds.load(tmp_path / "set")
    start = begin(run, tiny.task(run)).synthetic
    assert len(done) == 40
    assert done.card["stored"] == 10
    assert torch.isfinite(done.x).all()
    assert not torch.equal(done.x, start.decode())
