"""Image files: found by name, decoded in threads, or when drawn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datastill.data import _image_files as files
from kit import input_error


def numbered(folder: Path, count: int) -> list[str]:
    """Gray images of 2x3 pixels whose level is their number; their names."""
    folder.mkdir()
    for number in range(count):
        Image.new("L", (2, 3), number).save(folder / f"{number:02d}.png")
    return [f"{number:02d}.png" for number in range(count)]


def decode(path: Path) -> np.ndarray:
    return files.decode(path, lambda image: image)


def lazy(folder: Path, names: list[str]) -> files.LazyFiles:
    return files.LazyFiles(folder, names, (1, 3, 2), decode)


@pytest.mark.parametrize(("name", "taken"), [
    ("a.JPEG", True), ("a.b.png", True), ("a.txt", False), (".a.png", False), (".png", False), ("jpeg", False)])
def test_images_are_known_by_their_names(tmp_path: Path, name: str, taken: bool) -> None:
    (tmp_path / name).touch()
    assert files.is_image(name) == taken
    assert files.image_names(tmp_path) == [name] * taken


def test_only_regular_files_are_taken(tmp_path: Path) -> None:
    numbered(tmp_path / "x", 2)
    os.mkfifo(tmp_path / "x" / "q.png")
    (tmp_path / "x" / "d.png").mkdir()
    (tmp_path / "x" / "l.png").symlink_to("00.png")
    (tmp_path / "x" / "gone.png").symlink_to("nothing.png")
    assert files.image_names(tmp_path / "x") == ["00.png", "01.png", "l.png"]
    assert files.image_tree(tmp_path / "x") == [tmp_path / "x" / name for name in ("00.png", "01.png", "l.png")]


def test_a_tree_is_in_order_of_its_folders(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.png", "b!.png", "a/c/3.png", "a/n.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert files.image_tree(tmp_path) == sorted(p for p in tmp_path.rglob("*.png"))
    assert files.image_tree(tmp_path / "nowhere") == []


def test_no_folder_holds_no_images(tmp_path: Path) -> None:
    assert files.image_names(tmp_path / "nowhere") == []


def test_rows_are_filled_in_order(tmp_path: Path) -> None:
    names = numbered(tmp_path / "x", 40)
    images = files.fill(np.empty((40, 3, 2, 1), dtype=np.uint8), [tmp_path / "x" / name for name in names], decode)
    assert images[:, 2, 1, 0].tolist() == list(range(40))


def test_an_image_too_large_to_be_honest_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered(tmp_path / "x", 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    with input_error(f"{tmp_path / 'x' / '00.png'} cannot be read", "decompression bomb"):
        decode(tmp_path / "x" / "00.png")


@pytest.mark.parametrize(("mode", "channels", "wanted"), [
    ("L", 3, "RGB"), ("RGB", 1, "L"), ("CMYK", 3, "RGB"), ("1", 1, "L")])
def test_modes_become_gray_or_color(mode: str, channels: int, wanted: str) -> None:
    assert files.convert(Image.new(mode, (2, 2)), Path("x.png"), channels).mode == wanted


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_more_than_eight_bits_are_refused(mode: str) -> None:
    with input_error(f"x.png has mode {mode}", "convert it first"):
        files.convert(Image.new(mode, (2, 2)), Path("x.png"), 1)


@pytest.mark.parametrize("rows", [[], [3], [5, 0, 5], list(range(6))])
def test_lazy_pixels_are_read_in_the_order_asked_for(tmp_path: Path, rows: list[int]) -> None:
    pixels = lazy(tmp_path / "x", numbered(tmp_path / "x", 6))
    assert pixels.shape == (6, 1, 3, 2)
    drawn = pixels[torch.tensor(rows, dtype=torch.long)]
    assert drawn.shape == (len(rows), 1, 3, 2)
    assert drawn.dtype == torch.uint8
    assert drawn[:, 0, 2, 1].tolist() == rows


def test_the_identity_is_of_names_and_sizes_not_of_the_place(tmp_path: Path) -> None:
    names = numbered(tmp_path / "x", 4)
    rows: Any = torch.arange(4)
    before = lazy(tmp_path / "x", names).identity(rows)
    (tmp_path / "x").rename(tmp_path / "y")
    there = lazy(tmp_path / "y", names)
    assert there.identity(rows) == before
    assert there.identity(rows[:3]) != before
    assert there.identity(rows.flip(0)) != before
