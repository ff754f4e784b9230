"""ImageNet's folders: nothing is decoded before it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datastill.data import Data, Splits
from datastill.rng import RNG
from kit import input_error

WNIDS = ("n01440764", "n02102040", "n03445777")


def picture(seed: int, width: int = 12, height: int = 9, mode: str = "RGB") -> Image.Image:
    colors = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(colors).convert(mode)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of five training images and two validation images, of several sizes and modes."""
    folder = tmp_path / "imagenet"
    for label, wnid in enumerate(WNIDS):
        for split, count in (("train", 5), ("val", 2)):
            (folder / split / wnid).mkdir(parents=True)
            for number in range(count):
                image = picture(10 * label + number, 12 + 3 * number, 14 - label, ("RGB", "L", "CMYK")[number % 3])
                image.save(folder / split / wnid / f"{split}_{number}.JPEG", quality=95)
    return folder


def load(root: Path, size: int | None = 8, **options: Any) -> Splits:
    return Data(source="imagenet", size=size, **options).load(root)


def square(path: Path, side: int, mode: str = "RGB") -> np.ndarray:
    """(C, side, side): the shorter side resized, the middle cut out, by PIL alone."""
    image = Image.open(path).convert("RGB").convert(mode)
    short = min(image.size)
    image = image.resize(tuple(int(side * length / short) for length in image.size), Image.Resampling.BILINEAR)
    left, top = (round((length - side) / 2) for length in image.size)
    array = np.asarray(image)[top:top + side, left:left + side]
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "side"), [(None, 224), (8, 8), (16, 16)])
def test_images_are_brought_to_a_square(folder: Path, tmp_path: Path, size: int | None, side: int) -> None:
    train, validation, test = load(tmp_path, size)
    assert train.shape == test.shape == (3, side, side)
    assert validation is None
    assert (train.classes, train.targets.tolist()) == (WNIDS, [0] * 5 + [1] * 5 + [2] * 5)
    assert test.targets.tolist() == [0, 0, 1, 1, 2, 2]
    paths = [folder / "train" / wnid / f"train_{number}.JPEG" for wnid in WNIDS for number in range(5)]
    raw = train.raw(torch.tensor([14, 0, 3]))
    assert raw.dtype == torch.uint8
    assert raw.is_contiguous()
    assert np.array_equal(raw.numpy(), np.stack([square(paths[row], side) for row in (14, 0, 3)]))
    assert (train.mean, train.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_images_can_be_gray(folder: Path, tmp_path: Path) -> None:
    train = load(tmp_path, channels=1).train
    assert np.array_equal(train.raw(torch.tensor([2]))[0], square(folder / "train" / WNIDS[0] / "train_2.JPEG", 8, "L"))
    assert train.mean == (round(0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406, 3),)


@pytest.mark.parametrize("path", ["imagenet", "elsewhere"])
def test_a_path_may_name_the_folder(folder: Path, tmp_path: Path, path: str) -> None:
    before = load(tmp_path).train.fingerprint
    folder.rename(tmp_path / path)
    assert load(tmp_path, path=path).train.fingerprint == before


def test_other_files_are_left_alone(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "README.md").write_text("mine")
    (folder / "train" / WNIDS[0] / "notes.txt").write_text("mine")
    (folder / "train" / WNIDS[0] / ".hidden.JPEG").write_text("mine")
    assert len(load(tmp_path).train) == 15


def test_what_is_left_out_is_said(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "train" / WNIDS[0] / "x.heic").write_bytes(b"x")
    (folder / "val" / WNIDS[1] / "x.JPEG").symlink_to("nothing.JPEG")
    (folder / "val" / WNIDS[1] / "y.JPEG").symlink_to("val_0.JPEG")
    splits = load(tmp_path)
    assert (len(splits.train), len(splits.test)) == (15, 7)
    [text] = caplog.messages
    assert text.startswith(f"{folder}: left out: .heic: 1, dead links: 1")


def test_photographs_are_turned_upright(folder: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    picture(7, 20, 20).save(folder / "train" / WNIDS[0] / "a.png")
    picture(7, 20, 20).save(folder / "train" / WNIDS[0] / "b.png", exif=exif)
    straight, turned = load(tmp_path).train.raw(torch.tensor([0, 1]))
    assert torch.equal(turned, straight.flip(1, 2))


def test_nothing_drawn_is_nothing_read(folder: Path, tmp_path: Path) -> None:
    train = load(tmp_path).train
    assert train.raw(torch.arange(0)).shape == (0, 3, 8, 8)


# --- decoded when drawn -----------------------------------------------------------------------------------------------


@pytest.fixture
def opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files PIL has opened since."""
    names: list[str] = []
    original = Image.open

    def watched(path: Path, *arguments: Any) -> Image.Image:
        names.append(f"{path.parent.name}/{path.name}")
        return original(path, *arguments)

    monkeypatch.setattr(Image, "open", watched)
    return names


@pytest.mark.parametrize("options", [{}, {"validation": 0.4}, {"keep": "keep.npy"}, {"channels": 1}, {"size": None}])
def test_loading_opens_no_image(tmp_path: Path, opened: list[str], options: dict[str, Any]) -> None:
    np.save(tmp_path / "keep.npy", np.array([14, 1, 6, 5, 0]))
    train, validation, test = load(tmp_path, **options)
    for split in (train, validation, test):
        if split is not None:
            assert len(split.subset(torch.arange(2)).to(torch.device("cpu")).fingerprint) == 12
            assert len(split.of_class) == 3
    assert opened == []


def test_only_what_is_drawn_is_opened(tmp_path: Path, opened: list[str]) -> None:
    train = load(tmp_path).train
    batch = train.sample(2, RNG(0), of_class=1)
    assert batch.x.shape == (2, 3, 8, 8)
    assert batch.y.argmax(1).tolist() == [1, 1]
    assert len(opened) == len(set(opened)) == 2
    assert all(name.startswith(WNIDS[1]) for name in opened)


@pytest.mark.usefixtures("folder")
def test_a_part_draws_its_own_images(tmp_path: Path) -> None:
    whole = load(tmp_path).train
    everything = whole.raw(torch.arange(15))
    train, validation, _ = load(tmp_path, validation=0.4)
    assert validation is not None
    together = torch.cat([part.raw(torch.arange(len(part))) for part in (train, validation)])
    assert sorted(together.flatten(1).tolist()) == sorted(everything.flatten(1).tolist())
    part = whole.subset(torch.tensor([9, 4, 14])).subset(torch.tensor([2, 0]))
    assert torch.equal(part.batch(torch.tensor([1, 0])).x, whole.batch(torch.tensor([9, 14])).x)


@pytest.mark.usefixtures("folder")
def test_the_device_is_where_batches_are(tmp_path: Path) -> None:
    train = load(tmp_path).train.to(torch.device("meta"))
    assert train.sample(2, RNG(0)).x.device.type == "meta"


# --- the fingerprint --------------------------------------------------------------------------------------------------


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("change", [
    lambda folder: grow(folder / "train" / WNIDS[2] / "train_4.JPEG"),
    lambda folder: (folder / "train" / WNIDS[2] / "train_4.JPEG").unlink(),
    lambda folder: (folder / "train" / WNIDS[2] / "train_4.JPEG").rename(folder / "train" / WNIDS[2] / "x.JPEG"),
    lambda folder: [(folder / split / WNIDS[1]).rename(folder / split / "n09") for split in ("train", "val")]])
def test_the_fingerprint_changes_with_names_and_sizes_of_files(
        folder: Path, tmp_path: Path, change: Callable[[Path], Any]) -> None:
    before = load(tmp_path)
    prints = before.train.fingerprint, before.test.fingerprint
    assert prints == (load(tmp_path).train.fingerprint, load(tmp_path).test.fingerprint)
    change(folder)
    assert load(tmp_path).train.fingerprint != prints[0]


@pytest.mark.usefixtures("folder")
def test_the_fingerprint_changes_with_what_is_drawn(tmp_path: Path) -> None:
    train = load(tmp_path).train
    parts = [train, load(tmp_path, size=9).train, load(tmp_path, channels=1).train, load(tmp_path).test,
             train.subset(torch.arange(14)), train.subset(torch.arange(15).flip(0)),
             load(tmp_path, validation=0.3).train]
    assert len({part.fingerprint for part in parts}) == len(parts)


def test_an_image_that_went_away_is_named(folder: Path, tmp_path: Path) -> None:
    train = load(tmp_path).train
    path = folder / "train" / WNIDS[0] / "train_0.JPEG"
    path.unlink()
    with input_error(str(path), "restore it"):
        _ = train.fingerprint
    with input_error(str(path), "cannot be read"):
        train.raw(torch.tensor([0]))


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda b: b[:-200], lambda b: b"", lambda b: b"<html>"])
def test_a_damaged_image_is_named_when_it_is_drawn(
        folder: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = folder / "train" / WNIDS[1] / "train_0.JPEG"
    path.write_bytes(damage(path.read_bytes()))
    train = load(tmp_path).train
    train.batch(torch.tensor([4, 6]))
    with input_error(f"{path} cannot be read as an image"):
        train.batch(torch.tensor([4, 5, 6]))


def test_a_missing_set_says_where_to_get_it(tmp_path: Path) -> None:
    with input_error(f"{tmp_path / 'imagenet' / 'train'} nor {tmp_path / 'train'}", "https://image-net.org/download",
                     "val/<wnid>/*.JPEG", "data.path"):
        load(tmp_path)


def test_a_missing_validation_folder_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "val").rename(folder / "validation")
    with input_error(f"no folder {folder / 'val'};"):
        load(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_without_images_is_named(folder: Path, tmp_path: Path, split: str) -> None:
    for path in (folder / split / WNIDS[1]).iterdir():
        path.unlink()
    with input_error(f"no images in {folder / split / WNIDS[1]}", "remove the class"):
        load(tmp_path)


def test_validation_images_in_one_heap_are_explained(folder: Path, tmp_path: Path) -> None:
    for wnid in WNIDS:
        for path in (folder / "val" / wnid).iterdir():
            path.rename(folder / "val" / f"{wnid}_{path.name}")
        (folder / "val" / wnid).rmdir()
    with input_error(f"{folder / 'val'} contains no folders", "one folder per class"):
        load(tmp_path)


def test_different_classes_are_named(folder: Path, tmp_path: Path) -> None:
    for number in range(9):
        (folder / "val" / f"n{number}").mkdir()
    with input_error("different classes: n0, n1, n2, n3, n4 and 4 more"):
        load(tmp_path)


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / WNIDS[0]).mkdir(parents=True)
        picture(0).save(tmp_path / split / WNIDS[0] / "0.JPEG")
    with input_error("imagenet: 1 class"):
        load(tmp_path)


# --- random crops -----------------------------------------------------------------------------------------------------


def test_crops_are_cut_from_the_file_before_it_is_made_smaller(tmp_path: Path) -> None:
    """Stripes of one pixel are gray in a small image, and black and white in a crop of the original."""
    for split in ("train", "val"):
        for label in range(2):
            (tmp_path / "imagenet" / split / f"n0000000{label}").mkdir(parents=True)
            stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
            Image.fromarray(stripes).convert("RGB").save(tmp_path / "imagenet" / split / f"n0000000{label}" / "a.png")
    train = load(tmp_path, 8).train
    rows = torch.tensor([0, 1, 1])
    whole = train.raw(rows).float()
    assert ((whole > 100) & (whole < 155)).all()
    sharp = train.crops(rows, RNG("c"), area=(0.015, 0.016))  # about 8 x 8 of 64 x 64 pixels
    assert sharp.shape == (3, 3, 8, 8)
    ends = train.normalize(torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 1, 2)).flatten(1)[0]
    assert sharp.amax() > 0.8 * ends.amax()
    assert sharp.amin() < 0.8 * ends.amin()
    assert torch.equal(sharp, train.crops(rows, RNG("c"), area=(0.015, 0.016)))
    assert not torch.equal(sharp[1], sharp[2])


def test_a_crop_of_everything_is_the_image_squashed(folder: Path, tmp_path: Path) -> None:
    train = load(tmp_path, 8, fit="squash").train
    rows = torch.arange(5)
    everything = train.originals(rows, lambda number, image: image.resize((8, 8), Image.Resampling.BILINEAR))
    assert everything is not None
    wanted = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in everything])
    assert torch.equal(wanted, train.raw(rows))
