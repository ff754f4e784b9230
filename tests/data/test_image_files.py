"""Image files: found by name, decoded in threads, or when drawn."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

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
    return files.LazyFiles(folder, names, channels=1, side=2, fit="squash")


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
    assert pixels.shape == (6, 1, 2, 2)
    drawn = pixels[torch.tensor(rows, dtype=torch.long)]
    assert drawn.shape == (len(rows), 1, 2, 2)
    assert drawn.dtype == torch.uint8
    assert drawn[:, 0, 1, 1].tolist() == rows


@pytest.mark.parametrize("rows", [[], [3], [5, 0, 5]])
def test_originals_are_read_in_the_order_asked_for_and_in_their_own_size(tmp_path: Path, rows: list[int]) -> None:
    pixels = lazy(tmp_path / "x", numbered(tmp_path / "x", 6))
    found = pixels.originals(torch.tensor(rows, dtype=torch.long), lambda number, image: image.point(lambda v: 10 * v + number))
    assert [one.size for one in found] == [(2, 3)] * len(rows)
    assert [one.getpixel((1, 2)) for one in found] == [10 * row + number for number, row in enumerate(rows)]


def test_the_identity_is_of_names_and_sizes_not_of_the_place(tmp_path: Path) -> None:
    names = numbered(tmp_path / "x", 4)
    rows: Any = torch.arange(4)
    before = lazy(tmp_path / "x", names).identity(rows)
    (tmp_path / "x").rename(tmp_path / "y")
    there = lazy(tmp_path / "y", names)
    assert there.identity(rows) == before
    assert there.identity(rows[:3]) != before
    assert there.identity(rows.flip(0)) != before


# --- which files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".jp2", ".j2k", ".apng", ".avif", ".tga", ".pbm", ".pnm", ".dib", ".pcx", ".JPG"])
def test_every_format_of_pictures_that_pillow_opens_is_read(tmp_path: Path, suffix: str) -> None:
    mode = "1" if suffix == ".pbm" else "L"
    Image.new(mode, (8, 8), 255).save(tmp_path / f"x{suffix}")
    assert files.image_names(tmp_path) == [f"x{suffix}"]
    assert decode(tmp_path / f"x{suffix}").shape[:2] == (8, 8)


@pytest.mark.parametrize("suffix", [".heic", ".mp4", ".mpg", ".eps", ".h5", ".ico", ".txt", ".svg", ".dcm"])
def test_other_formats_are_left_out_and_counted(tmp_path: Path, suffix: str) -> None:
    for name in (f"a{suffix}", f"b{suffix.upper()}"):
        (tmp_path / name).write_bytes(b"x")
    for listed in (files.image_names, files.image_tree):
        left_out: Counter[str] = Counter()
        assert listed(tmp_path, left_out) == []
        assert files.kinds(left_out) == f"{suffix}: 2"


def test_what_is_left_out_is_counted_by_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    numbered(tmp_path / "x", 2)
    os.mkfifo(tmp_path / "x" / "q.png")
    (tmp_path / "x" / "gone.png").symlink_to("nothing.png")
    (tmp_path / "x" / "itself.png").symlink_to("itself.png")
    for name in (".a.png", ".DS_Store", "README", "n.txt"):
        (tmp_path / "x" / name).write_bytes(b"x")
    left_out: Counter[str] = Counter()
    assert len(files.image_tree(tmp_path / "x", left_out)) == 2
    assert +left_out == {"not files": 1, "dead links": 2, "hidden": 1, "no suffix": 1, ".txt": 1}
    files.say_left_out(tmp_path / "x", left_out)
    files.say_left_out(tmp_path / "x", Counter(hidden=0))
    [record] = caplog.records
    assert record.getMessage().startswith(f"{tmp_path / 'x'}: left out: dead links: 2, ")


def test_many_kinds_are_cut_short() -> None:
    assert files.kinds(Counter({f".{number}": 1 for number in range(11)})).endswith(".7: 1 and 3 more kinds")


def test_hidden_folders_are_not_entered(tmp_path: Path) -> None:
    for name in (".ipynb_checkpoints", "__MACOSX", "shown"):
        numbered(tmp_path / name, 1)
    assert files.image_tree(tmp_path) == [tmp_path / "shown" / "00.png"]


@pytest.mark.parametrize("listed", [files.image_names, files.image_tree, files.folder_names])
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: Any) -> None:
    def refused(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(files.os, "scandir", refused)
    with input_error(f"{tmp_path} cannot be read: Permission denied"):
        listed(tmp_path)


# --- links ------------------------------------------------------------------------------------------------------------


def test_linked_folders_are_entered_as_torchvision_does(tmp_path: Path) -> None:
    numbered(tmp_path / "elsewhere", 3)
    numbered(tmp_path / "set", 0)
    numbered(tmp_path / "set" / "ant", 2)
    (tmp_path / "set" / "ant" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "ant" / "one.png").symlink_to("../../elsewhere/00.png")
    (tmp_path / "set" / "bee").symlink_to(tmp_path / "elsewhere")
    theirs = [path for path, _ in ImageFolder(tmp_path / "set").samples]
    ours = [path for name in files.folder_names(tmp_path / "set") for path in files.image_tree(tmp_path / "set" / name)]
    assert sorted(map(str, ours)) == sorted(theirs)
    assert len(ours) == 9
    (tmp_path / "set" / "cow").symlink_to("cow")
    assert files.folder_names(tmp_path / "set") == ["ant", "bee"]


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_a_link_that_leads_back_is_not_followed(tmp_path: Path, target: str) -> None:
    numbered(tmp_path / "set", 0)
    numbered(tmp_path / "set" / "bee", 1)
    numbered(tmp_path / "set" / "ant", 2)
    (tmp_path / "set" / "ant" / "back").symlink_to(target)
    left_out: Counter[str] = Counter()
    assert len(files.image_tree(tmp_path / "set" / "ant", left_out)) == 2
    assert left_out["links in a circle"] == 1


def test_a_linked_class_does_not_lead_back_to_its_set(tmp_path: Path) -> None:
    numbered(tmp_path / "elsewhere", 2)
    numbered(tmp_path / "set", 0)
    numbered(tmp_path / "set" / "bee", 1)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "ant").symlink_to(tmp_path / "elsewhere")
    assert len(files.image_tree(tmp_path / "set" / "ant")) == 2


# --- orientation ------------------------------------------------------------------------------------------------------

QUARTERS = Image.fromarray(np.array([[0, 80], [160, 250]], dtype=np.uint8).repeat(16, 0).repeat(32, 1))  # 64 x 32


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize(("orientation", "wanted"), [
    (1, [[0, 80], [160, 250]]), (2, [[80, 0], [250, 160]]), (3, [[250, 160], [80, 0]]), (4, [[160, 250], [0, 80]]),
    (5, [[0, 160], [80, 250]]), (6, [[160, 0], [250, 80]]), (7, [[250, 80], [160, 0]]), (8, [[80, 250], [0, 160]]), (9, [[0, 80], [160, 250]])])
def test_photographs_are_turned_upright(tmp_path: Path, suffix: str, orientation: int, wanted: list[list[int]]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    QUARTERS.convert("RGB").save(tmp_path / f"x.{suffix}", exif=exif, quality=100)
    got = decode(tmp_path / f"x.{suffix}")[..., 0]
    height, width = got.shape
    corners = got[height // 4::height // 2, width // 4::width // 2].astype(int)
    assert (width > height) == (orientation in (1, 2, 3, 4, 9))
    assert np.abs(corners - np.array(wanted)).max() <= 4


@pytest.mark.parametrize("junk", [b"Exif\0\0junk", b"\xff" * 10, b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01AAAA\0\0\0\0"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_exif_data_do_not_matter(tmp_path: Path, junk: bytes, suffix: str) -> None:
    QUARTERS.convert("RGB").save(tmp_path / f"x.{suffix}", exif=junk)
    assert decode(tmp_path / f"x.{suffix}").shape == (32, 64, 3)


def test_the_first_frame_counts(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 10).save(tmp_path / "x.gif", save_all=True, append_images=[Image.new("L", (4, 4), 200)])
    read = files.decode(tmp_path / "x.gif", lambda image: files.convert(image, tmp_path, 1))
    assert read.min() == read.max() == 10


# --- transparency -----------------------------------------------------------------------------------------------------


def saved(path: Path, image: Image.Image, **options: Any) -> Image.Image:
    """The image as it is read back."""
    image.save(path / "x.png", **options)
    return Image.open(path / "x.png")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_shown_over_white(mode: str, channels: int) -> None:
    colors = Image.new("RGBA", (3, 1), (100, 100, 100, 255))
    colors.putpixel((1, 0), (100, 100, 100, 0))
    colors.putpixel((2, 0), (100, 100, 100, 51))
    got = np.asarray(files.convert(colors.convert(mode), Path("x.png"), channels)).reshape(3, -1)
    assert got.tolist() == [[100] * channels, [255] * channels, [224] * channels]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("mode", "key"), [("P", 1), ("P", b"\xff\0"), ("L", 1), ("1", 1), ("RGB", (1, 1, 1))])
def test_transparent_colors_are_shown_over_white(tmp_path: Path, mode: str, key: Any, channels: int) -> None:
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((1, 0), key if not isinstance(key, bytes) else 1)
    if mode == "P":
        image.putpalette([9, 9, 9, 80, 80, 80])
    read = saved(tmp_path, image, transparency=key)
    got = np.asarray(files.convert(read, Path("x.png"), channels)).reshape(2, -1)
    assert got.tolist() == [[9 if mode == "P" else 0] * channels, [255] * channels]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_opaque_images_are_what_they_were(mode: str, channels: int) -> None:
    colors = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    image = colors.quantize(64) if mode == "P" else colors.convert(mode)
    plain = image if image.mode == {1: "L", 3: "RGB"}[channels] else image.convert("RGB").convert({1: "L", 3: "RGB"}[channels])
    assert np.array_equal(np.asarray(files.convert(image, Path("x.png"), channels)), np.asarray(plain))


@pytest.mark.parametrize("suffix", ["avif", "jp2", "tga", "qoi", "pcx", "webp", "gif", "tif", "sgi", "dds"])
def test_damage_in_any_format_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    for damaged in (content[:20], content[:5], b"", b"junk" * 20, bytes(len(content))):
        path.write_bytes(damaged)
        with input_error(f"{path} cannot be read as an image"):
            decode(path)
