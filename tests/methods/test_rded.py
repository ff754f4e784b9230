"""RDED: crops of real images of the right class that the teacher recognizes best, each image used once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import datastill as ds
import tiny
from datastill.functional.rded import centered
from datastill.methods._patches import Patches, _losses, _of_class, mosaics
from datastill.run import check_run
from kit import input_error


def run_of(ipc: int = 2, **patches: Any) -> ds.Run:
    return tiny.run("rded", ipc=ipc, method_options={"patches": {"images": 40, "crops": 3, **patches}})


def made(run: ds.Run, root: Path = tiny.ROOT) -> tuple[ds.Task, torch.Tensor]:
    task = run.task(tiny.splits().train, root=root)
    run.method.prepare(task)
    return task, run.method.start(task, run.ipc, ds.RNG(0)).decode()


def losses(run: ds.Run, task: ds.Task, x: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of images in class order under the teachers."""
    parts = x.unflatten(0, (10, -1))
    teachers = list(task.teachers(run.method.pool))  # type: ignore[attr-defined]
    return torch.stack([torch.stack([_losses(t, part, c) for c, part in enumerate(parts)]) for t in teachers]).mean(0)


def test_the_best_come_first_and_the_middle_lies_between() -> None:
    found = {}
    for place in (0.0, 0.5, 1.0):
        run = run_of(place=place)
        task, x = made(run)
        found[place] = losses(run, task, x)
        assert x.shape == (20, 1, 8, 8)
    assert bool((found[0.0][:, 0] <= found[0.0][:, 1]).all())
    assert float(found[0.0].mean()) < float(found[0.5].mean()) < float(found[1.0].mean())


def test_a_mosaic_has_crops_of_every_rank() -> None:
    run = run_of(factor=2)
    task, x = made(run)
    tiles = [x[:, :, i:i + 4, j:j + 4] for i in (0, 4) for j in (0, 4)]
    each = torch.stack([losses(run, task, centered(tile, (8, 8))) for tile in tiles])  # (tile, class, image)
    ranks = each.permute(1, 0, 2).flatten(1)
    assert bool((ranks.diff(dim=1) >= -1e-5).all())


def test_chosen_crops_are_stored_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of()
    _, x = made(run, tmp_path)
    (file,) = (tmp_path / "patches").glob("*.npy")
    monkeypatch.setattr("datastill.methods._patches._of_class", None)
    assert torch.equal(made(run, tmp_path)[1], x)
    monkeypatch.undo()
    file.write_bytes(file.read_bytes()[:-7])
    assert torch.equal(made(run, tmp_path)[1], x)
    assert not torch.equal(made(run_of(crops=4), tmp_path)[1], x)


def test_whole_images_at_one_crop_of_all() -> None:
    """With boxes of the whole image nothing but choosing is left: the images with the lowest loss."""
    task, _ = made(run_of())
    pool = run_of().method.pool  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datastill.methods._patches.draw_boxes", lambda rng, count, size, **_: torch.tensor([[0, 0, *size]]).expand(count, 4))
        patch.setattr("datastill.methods._patches.once", lambda path, make: (make(path), path)[1])
        (task.root / "patches").mkdir(exist_ok=True)
        found = mosaics(Patches(images=10_000, crops=1), task, pool, 3, range(3), ds.RNG("whole"))
    teachers = list(task.teachers(pool))
    for c, rows in enumerate(task.real.of_class):
        x = task.real.batch(rows).x
        order = torch.stack([_losses(teacher, x, c) for teacher in teachers]).mean(0).sort().values
        mine = torch.stack([_losses(teacher, found[3 * c:3 * c + 3], c) for teacher in teachers]).mean(0)
        torch.testing.assert_close(mine, order[:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("ipc", "patches", "parts"), [
    (11, {"factor": 2}, ("11 images of 2x2 crops take 44", "images is 40", "images=44")),
    (50, {"images": 300, "factor": 2}, ("take 200 of each class", "the smallest class has", "smaller ipc or factor")),
    (1, {"factor": 16}, ("factor 16", "8 pixels")),
    (1, {"factor": 0}, ("factor", "greater than or equal to 1")),
])
def test_bad_input(ipc: int, patches: dict[str, Any], parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        check_run(run_of(ipc, **patches), tiny.splits().train, root=tiny.ROOT)


def test_crops_of_photographs_are_cut_out_of_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripes of one pixel are gray in a small image, and black and white in a crop of the original."""
    for split in ("train", "val"):
        for label in range(2):
            folder = tmp_path / "imagenet" / split / f"n0000000{label}"
            folder.mkdir(parents=True)
            stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
            for name in "ab":
                Image.fromarray(stripes).convert("RGB").save(folder / f"{name}.png")
    images = ds.Data(source="imagenet", size=8).load(tmp_path).train  # type: ignore[arg-type]
    assert images.have_originals
    assert not tiny.splits().train.have_originals
    monkeypatch.setattr("datastill.methods._patches.AREA", (0.015, 0.016))  # about 8 x 8 of 64 x 64 pixels
    monkeypatch.setattr("datastill.methods._patches._losses", lambda teacher, x, c: x.mean((1, 2, 3)))
    task: Any = ds.Run(method="rded", network="resnet20:width=4", data={"source": "imagenet", "size": 8}).task(images, root=tmp_path)  # type: ignore[arg-type]
    found, again = (_of_class(Patches(images=2, crops=3), task, [None], 2, 0, ds.RNG(0)) for _ in range(2))  # type: ignore[list-item]
    assert found.shape == (2, 3, 8, 8)
    assert torch.equal(found, again)
    gray = images.batch(torch.tensor([0])).x
    assert float(found.std()) > 5 * float(gray.std())
