"""The one reader of image files, through the sources that use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datastill.data import Data, _reader
from datastill.data._fit import Fit, square
from datastill.data._reader import Reader
from kit import input_error

Write = Callable[..., Data]
LEVELS = np.random.default_rng(0).integers(0, 256, (6, 8, 12), dtype=np.uint8)
DEPTHS: list[tuple[str, type, float]] = [("png", np.uint16, 257), ("tif", np.uint16, 257), ("tif", np.int32, 300), ("tif", np.float32, 0.25)]


@pytest.fixture(params=["folder", "csv"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    """Write two classes of images as files of this suffix, and describe them as a folder or a table."""
    def write(images: list[Image.Image], suffix: str = "png", options: dict[str, Any] | None = None, **saving: Any) -> Data:
        lines = ["file,label"]
        for number, image in enumerate(images):
            name = ("ant", "bee")[number % 2]
            (tmp_path / "tree" / name).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "tree" / name / f"{number}.{suffix}", **saving)
            lines.append(f"{name}/{number}.{suffix},{name}")
        (tmp_path / "tree" / "labels.csv").write_text("\n".join(lines))
        path = "tree" if request.param == "folder" else "tree/labels.csv"
        return Data(source=request.param, path=path, test=0.3, **(options or {}))

    return write


def loaded(data: Data, root: Path) -> set[bytes]:
    """The pixels (H, W, C) of every image."""
    train, _, test = data.load(root)
    return {image.permute(1, 2, 0).numpy().tobytes() for split in (train, test) for image in split.raw(torch.arange(len(split)))}


def pixels(images: list[Image.Image]) -> set[bytes]:
    return {np.asarray(image).tobytes() for image in images}


def deep(kind: type, factor: float) -> list[Image.Image]:
    return [Image.fromarray((levels * float(factor)).astype(kind)) for levels in LEVELS]


@pytest.fixture
def small_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_reader, "MEMORY_LIMIT", 0)
    monkeypatch.setenv("DATASTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_are_resized_as_pictures(write: Write, tmp_path: Path, mode: str, fit: Fit) -> None:
    images = [Image.fromarray(levels).convert(mode) for levels in LEVELS]
    assert loaded(write(images, options={"size": 5, "fit": fit}), tmp_path) == pixels([square(image, 5, fit) for image in images])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(("suffix", "kind"), [("png", np.uint8), ("tif", np.uint8), ("png", np.uint16), ("tif", np.uint16), ("tif", np.float32)])
def test_images_are_turned_upright(write: Write, tmp_path: Path, suffix: str, kind: type, orientation: int) -> None:
    exif, turns = Image.Exif(), {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    exif[0x0112] = orientation
    data = write(deep(kind, 1), suffix, {"range": (0, 255)}, exif=exif)
    assert loaded(data, tmp_path) == {np.rot90(levels, turns).tobytes() for levels in LEVELS}


def test_hidden_colors_are_not_seen(write: Write, tmp_path: Path) -> None:
    clear = [Image.new("RGBA", (6, 6), (40 * level, 0, 0, 0)) for level in range(6)]
    assert loaded(write(clear, options={"channels": 1}), tmp_path) == {b"\xff" * 36}


@pytest.mark.parametrize("options", [{}, {"size": 5}, {"channels": 3}])
@pytest.mark.parametrize(("suffix", "kind", "factor"), DEPTHS)
def test_images_of_more_than_8_bits_are_mapped_by_range(write: Write, tmp_path: Path, suffix: str, kind: type, factor: float, options: dict[str, Any]) -> None:
    data = write(deep(kind, factor), suffix, options)
    low, high = LEVELS.min() * float(factor), LEVELS.max() * float(factor)
    text = f"{kind(low)} to {kind(high)}; expected uint8, or the values that are to become 0 and 255, as in data.range=[{kind(low)},{kind(high)}]"
    with input_error(f"training images are {np.dtype(kind)} with values from {text}"):
        data.load(tmp_path)
    images = [Image.fromarray(levels) for levels in LEVELS]
    if "size" in options:
        images = [square(image, 5, "crop") for image in images]
    mapped = loaded(data.model_copy(update={"range": (0, 255 * factor)}), tmp_path)
    assert mapped == pixels([image.convert("RGB") if "channels" in options else image for image in images])


@pytest.mark.parametrize("size", [None, 4])
def test_an_outlier_is_not_hidden_by_resizing(write: Write, tmp_path: Path, size: int | None) -> None:
    images = deep(np.uint16, 4)
    images[3].putpixel((6, 4), 1021)
    data = write(images, options={"size": size, "range": (0, 1020)})
    with input_error("3.png: 1 of 96 values outside data.range=[0, 1020]", "to 1021"):
        data.load(tmp_path)
    with input_error("to 1021;", "data.range=[0,1021]"):
        data.model_copy(update={"range": None}).load(tmp_path)
    data.model_copy(update={"range": (0, 1021)}).load(tmp_path)


@pytest.mark.usefixtures("small_memory")
def test_deep_images_of_several_sizes_are_resized(write: Write, tmp_path: Path) -> None:
    images = [*deep(np.uint16, 257), Image.fromarray(np.full((30, 7), 65535, np.uint16))]
    data = write(images, options={"range": (0, 65535)})
    with input_error("6.png is 7x30 pixels, ", "0.png is 12x8; set data.size"):
        data.load(tmp_path)
    assert b"\xff" * 16 in loaded(data.model_copy(update={"size": 4}), tmp_path)


@pytest.mark.parametrize("options", [{}, {"range": (0, 255)}])
@pytest.mark.parametrize("first", [True, False])
def test_kinds_of_numbers_are_not_mixed(write: Write, tmp_path: Path, first: bool, options: dict[str, Any]) -> None:
    images = [Image.fromarray(levels) for levels in LEVELS]
    images[0 if first else 5] = deep(np.uint16, 1)[0]
    odd, usual = ("uint8", "uint16") if first else ("uint16", "uint8")
    with input_error(f".png is {odd}, ", f"0.png is {usual}; expected one kind of number"):
        write(images, options=options).load(tmp_path)


def test_a_range_of_16_bits_is_refused_for_colors_that_are_read_in_8(write: Write, tmp_path: Path) -> None:
    with input_error("0.png: read in 8 bits", "data.range ends at 65535", "leave it out"):
        write([Image.new("RGB", (6, 6))] * 6, options={"range": (0, 65535)}).load(tmp_path)


def test_transparency_beyond_8_bits_is_refused(write: Write, tmp_path: Path) -> None:
    with input_error("0.png has mode I;16", "convert it first"):
        write(deep(np.uint16, 1), transparency=0, options={"range": (0, 255)}).load(tmp_path)


def test_values_that_are_not_finite_are_said_before_a_range_is_proposed(write: Write, tmp_path: Path) -> None:
    images = [Image.new("F", (6, 6)) for _ in range(6)]
    images[3].putpixel((5, 4), float("nan"))
    for options in ({}, {"range": (0, 1)}):
        with input_error("3.tif: not finite: 1 of 36 values"):
            write(images, "tif", options=options).load(tmp_path)


@pytest.mark.parametrize("level", [-3, 0, 3])
def test_the_range_proposed_for_constant_images_can_be_used(write: Write, tmp_path: Path, level: int) -> None:
    data = write([Image.new("F", (6, 6), level)] * 6, "tif")
    with input_error(f"data.range=[{level}.0,{level + (abs(level) or 1)}.0]"):
        data.load(tmp_path)
    assert loaded(data.model_copy(update={"range": (level, level + (abs(level) or 1))}), tmp_path) == {bytes(36)}


@pytest.mark.parametrize("options", [{}, {"range": (0, 255)}, {"range": (0, 1000), "size": 4}])
def test_large_sets_are_mapped_from_a_file(write: Write, tmp_path: Path, options: dict[str, Any], request: pytest.FixtureRequest) -> None:
    data = write(deep(np.uint16, 1) if options else [Image.fromarray(levels) for levels in LEVELS], options=options)
    before = data.load(tmp_path)
    cache = request.getfixturevalue("small_memory")
    after = data.load(tmp_path)
    assert after.train.mapped
    assert [split.fingerprint for split in before[::2]] == [split.fingerprint for split in after[::2]]  # type: ignore[union-attr]
    [kept] = cache.glob("*.npy")
    assert np.load(kept, mmap_mode="r").dtype == np.uint8
    if options:
        assert data.model_copy(update={"range": (0, 2000)}).load(tmp_path).train.fingerprint != after.train.fingerprint


def test_arrays_of_any_number_of_channels_are_resized(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.npy" for number in range(2)]
    arrays = [np.random.default_rng(0).random((9, 7, 5)).astype(">f4"), np.ones((20, 8, 5), np.float32)]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    read = Reader(6, None, "squash", (0.0, 1.0)).read(paths)
    assert read.shape == (2, 6, 6, 5)
    assert read[1].min() == 255
    wanted = square(Image.fromarray(np.rint(arrays[0][..., 2] * np.float32(255)).astype(np.uint8)), 6, "squash")
    assert np.array_equal(read[0, ..., 2], np.asarray(wanted))
