"""Tiny ImageNet in its original layout, whole or in part."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datastill.data import Data, tiny_imagenet
from kit import input_error

WNIDS = ["n03", "n01", "n02"]  # not in alphabetical order, as in the original
DATA = Data(source="tiny_imagenet")


def picture(seed: int, mode: str = "RGB", side: int = 64) -> Image.Image:
    colors = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize((side, side)).convert(mode)


def jpeg(path: Path, seed: int, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, **options).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of two training images; four validation images, 3 and 0 of n01."""
    folder = tmp_path / "tiny-imagenet-200"
    for label, wnid in enumerate(WNIDS):
        for number in range(2):
            jpeg(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", 10 * label + number)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t62\t62\n")
    for number in range(4):
        jpeg(folder / "val" / "images" / f"val_{number}.JPEG", 100 + number)
    (folder / "wnids.txt").write_text("\n".join(WNIDS))
    (folder / "words.txt").write_text("n00\tentity\nn01\tcrane\nn02\tegyptian cat, cat\nn03\tcrane, hoist\n")
    annotate(folder, ["n01", "n03", "n02", "n01"])
    return folder


def annotate(folder: Path, wnids: list[str]) -> None:
    lines = (f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n" for number, wnid in enumerate(wnids))
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))


def seen(path: Path) -> list[Any]:
    """(3, 64, 64) as PIL reads the file."""
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1).tolist()


# --- the layout -------------------------------------------------------------------------------------------------------


def test_classes_are_in_the_order_of_wnids(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, validation, test = DATA.load(tmp_path)
    assert train.classes == test.classes == ("crane (n03)", "crane (n01)", "egyptian cat")
    assert train.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.targets.tolist() == [1, 0, 2, 1]
    assert validation is None
    assert train.pixels[2].tolist() == seen(folder / "train" / "n01" / "images" / "n01_0.JPEG")
    assert test.pixels[3].tolist() == seen(folder / "val" / "images" / "val_3.JPEG")
    assert (train.mean, train.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert not caplog.records


def test_the_folder_itself_may_be_the_path(folder: Path, tmp_path: Path) -> None:
    named = Data(source="tiny_imagenet", path=folder.name).load(tmp_path)
    assert named.train.fingerprint == DATA.load(tmp_path).train.fingerprint


def test_without_words_the_classes_are_wnids(folder: Path, tmp_path: Path) -> None:
    (folder / "words.txt").unlink()
    assert DATA.load(tmp_path).train.classes == ("n03", "n01", "n02")
    (folder / "words.txt").write_text("n01\tcrane\nn03\t\nno tab here\n")
    assert DATA.load(tmp_path).train.classes == ("n03", "crane", "n02")


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_images_that_are_not_rgb_become_it(folder: Path, tmp_path: Path, mode: str) -> None:
    path = folder / "train" / "n03" / "images" / "n03_0.JPEG"
    jpeg(path, 5, mode=mode)
    train = DATA.load(tmp_path).train
    assert train.shape == (3, 64, 64)
    assert train.pixels[0].tolist() == seen(path)


def test_size_and_channels_can_be_asked_for(folder: Path, tmp_path: Path) -> None:
    splits = Data(source="tiny_imagenet", size=32, channels=1).load(tmp_path)
    assert splits.train.shape == splits.test.shape == (1, 32, 32)
    assert len(splits.train.mean) == 1


# --- a part of it -----------------------------------------------------------------------------------------------------


def lose_the_folder(folder: Path) -> None:
    shutil.rmtree(folder / "train" / "n03")


def lose_the_images(folder: Path) -> None:
    for path in (folder / "train" / "n03" / "images").iterdir():
        path.unlink()


@pytest.mark.parametrize("lose", [lose_the_folder, lose_the_images])
def test_a_part_of_the_classes_will_do_and_is_said(
        folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, lose: Callable[[Path], None]) -> None:
    lose(folder)
    (folder / "val" / "images" / "val_0.JPEG").unlink()
    train, _, test = DATA.load(tmp_path)
    assert train.classes == ("crane (n01)", "egyptian cat")  # named as in the whole set
    assert train.targets.tolist() == [0, 0, 1, 1]
    assert test.targets.tolist() == [1, 0]  # val_2 and val_3
    [record] = caplog.records
    assert (record.name, record.levelname) == ("datastill.data", "WARNING")
    assert record.getMessage().startswith("tiny_imagenet: found 2 of 3 classes; 2 validation images are left out")


def test_files_that_are_no_images_are_said(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "train" / "n01" / "images" / "x.txt").write_text("mine")
    assert len(DATA.load(tmp_path).train) == 6
    assert caplog.messages == [f"{folder}: left out: .txt: 1"]


def test_a_missing_validation_image_alone_is_said(
        folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "val" / "images" / "val_0.JPEG").unlink()
    assert len(DATA.load(tmp_path).test) == 3
    assert "found 3 of 3 classes; 1 validation" in caplog.text


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train/n02/images/n02_1.JPEG", "val/images/val_2.JPEG"])
@pytest.mark.parametrize("damage", [lambda b: b[:-200], lambda b: b"", lambda b: b"<html>"])
def test_a_damaged_image_is_named(
        folder: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    with input_error(f"{path} cannot be read as an image"):
        DATA.load(tmp_path)


def test_an_odd_size_is_named(folder: Path, tmp_path: Path) -> None:
    path = folder / "val" / "images" / "val_1.JPEG"
    jpeg(path, 1, side=32)
    with input_error(str(path), "32x32", "64x64", "data.source=folder"):
        DATA.load(tmp_path)


@pytest.mark.parametrize("name", ["wnids.txt", "val/val_annotations.txt"])
def test_a_missing_list_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).unlink()
    with input_error(f"no file {folder / name}", "http://cs231n.stanford.edu/tiny-imagenet-200.zip"):
        DATA.load(tmp_path)


@pytest.mark.parametrize(("content", "parts"), [
    (b"val_0.JPEG n01 0 0 1 1\n", ("line 1", "a file name, a tab and a wnid", "val_0.JPEG n01")),
    (b"val_0.JPEG\tn01\nval_1.JPEG", ("line 2",)),
    (b"\xff\xfe", ("cannot be read as text",)),
    (b"val_0.JPEG\tn01\nval_1.JPEG\tn01\nval_0.JPEG\tn02\n", ("line 3", "val_0.JPEG is there twice")),
    (b"", ("no image in", "3 classes", "val/images")),
    (b"val_9.JPEG\tn01\t0\t0\t1\t1\n", ("no image in", "unpack http://")),
])
def test_wrong_annotations_are_explained(
        folder: Path, tmp_path: Path, content: bytes, parts: tuple[str, ...]) -> None:
    (folder / "val" / "val_annotations.txt").write_bytes(content)
    with input_error(str(folder / "val"), *parts):
        DATA.load(tmp_path)


def test_two_names_for_a_class_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "words.txt").write_text("n01\tcrane\nn02\tcat\nn01\theron\nn09\ta\nn09\tb\n")
    with input_error(str(folder / "words.txt"), "two names for n01: 'crane' and 'heron'"):
        DATA.load(tmp_path)
    (folder / "words.txt").write_text("n01\tcrane\nn01\tcrane\n")
    assert DATA.load(tmp_path).train.classes == ("n03", "crane", "n02")


def test_no_class_at_all_is_explained(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "train")
    with input_error(f"{folder / 'train'}/<wnid>/images", "3 classes", "wnids.txt", "unpack http://"):
        DATA.load(tmp_path)


# --- the archive ------------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(folder: Path, site: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The set published as a zip file on the test's own site, and gone from the root."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, str(path.relative_to(folder.parent)))
    shutil.rmtree(folder)
    target = site.folder / "tiny-imagenet-200.zip"
    target.write_bytes(buffer.getvalue())
    monkeypatch.setattr(tiny_imagenet, "URL", site.url + target.name)
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(buffer.getvalue()).hexdigest())
    return target


@pytest.mark.usefixtures("archive")
def test_a_missing_set_is_fetched_once(tmp_path: Path, site: Any) -> None:
    root = tmp_path / "data"
    assert len(DATA.load(root).train) == 6
    assert sorted(path.name for path in root.iterdir()) == ["tiny-imagenet-200", "tiny-imagenet-200.zip"]
    site.close()
    assert len(DATA.load(root).test) == 4


def test_a_download_that_is_not_the_archive_leaves_no_folder(archive: Path, tmp_path: Path) -> None:
    archive.write_bytes(b"a login page")
    with input_error("download failed", str(tmp_path / "data" / "tiny-imagenet-200"), tiny_imagenet.URL):
        DATA.load(tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir() if path.is_dir()] == []


@pytest.mark.usefixtures("archive")
def test_a_missing_set_without_a_network_is_explained(tmp_path: Path, site: Any) -> None:
    site.close()
    with input_error(f"looked for {tmp_path / 'data' / 'tiny-imagenet-200'}", "--data-root", tiny_imagenet.URL):
        DATA.load(tmp_path / "data")
    assert not (tmp_path / "data").exists()


# --- the real set -----------------------------------------------------------------------------------------------------

REAL = Path(os.environ.get("DATASTILL_DATA", "nowhere"))


@pytest.mark.skipif(not (REAL / "tiny-imagenet-200").is_dir(), reason="DATASTILL_DATA has no tiny-imagenet-200")
def test_the_real_set() -> None:
    train, _, test = DATA.load(REAL)
    classes = len(train.classes)
    assert 2 <= classes <= 200
    assert train.shape == test.shape == (3, 64, 64)
    assert torch.bincount(train.targets).tolist() == [500] * classes
    assert torch.bincount(test.targets).tolist() == [50] * classes
    place = REAL / "tiny-imagenet-200"
    wnids = [wnid for wnid in (place / "wnids.txt").read_text().split() if (place / "train" / wnid).is_dir()]
    assert train.pixels[-1].tolist() == seen(sorted((place / "train" / wnids[-1] / "images").iterdir())[-1])
    labels = [line.split("\t")[1] for line in (place / "val" / "val_annotations.txt").read_text().splitlines()]
    assert [wnids[label] for label in test.targets.tolist()] == [wnid for wnid in labels if wnid in wnids]
    for channel in range(3):  # the usual mean is ImageNet's; Tiny ImageNet's own is within a few hundredths
        assert abs(train.pixels[:, channel].double().mean() / 255 - train.mean[channel]) < 0.1
