"""Tiny ImageNet: two hundred classes of 64x64 color photographs."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np

from datastill.data import _image_files as files
from datastill.data._caveats import say
from datastill.data._torchvision import attempt, made
from datastill.data.source import Arrays, Source
from datastill.errors import InputError

FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"  # of 248,100,043 bytes; as in ContinualAI's avalanche, tiny_imagenet.py
SIDE = 64


class TinyImageNet(Source):
    """64x64 color photographs of 200 classes (Le and Yang 2015): 100,000 for training, the 10,000 in val/ for testing.

    Reads the original layout in ``<root>/tiny-imagenet-200`` or ``data.path``: wnids.txt, words.txt,
    train/<wnid>/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt. The classes are those in wnids.txt that have
    training images, in that order; a subset of the 200 is accepted, and said. Gray images are converted to RGB.
    """

    download: ClassVar[bool] = True
    mean: ClassVar[tuple[float, ...]] = (0.485, 0.456, 0.406)  # those of ImageNet
    std: ClassVar[tuple[float, ...]] = (0.229, 0.224, 0.225)

    def read(self, place: Path, size: int | None, channels: int | None) -> Arrays:
        folder = place if (place / "wnids.txt").is_file() else place / FOLDER
        if not folder.is_dir():
            attempt("tiny_imagenet", f"{folder} (from {URL})", lambda: _fetch(place, folder))
        wnids = list(dict.fromkeys(line.strip() for line in _lines(folder / "wnids.txt")))
        unread: Counter[str] = Counter()
        train = {wnid: _images(folder / "train" / wnid / "images", unread) for wnid in wnids}
        files.say_left_out(folder, unread)
        present = [wnid for wnid in wnids if train[wnid]]
        if not present:
            raise InputError(f"dataset tiny_imagenet: no images in {folder / 'train'}/<wnid>/images for any of the "
                             f"{len(wnids)} classes in {folder / 'wnids.txt'}; unpack {URL} there again")
        labels = np.repeat(np.arange(len(present)), [len(train[wnid]) for wnid in present])
        test, test_labels, left_out = _validation(folder / "val", present)
        if left_out or len(present) < len(wnids):
            say("tiny_imagenet", f"found {len(present)} of {len(wnids)} classes; {left_out} validation images are left out "
                                 "because their class or file is missing")
        names = _class_names(folder / "words.txt", wnids)
        return Arrays((_read([path for wnid in present for path in train[wnid]]), labels), (_read(test), test_labels),
                      tuple(names[wnid] for wnid in present), self.mean, self.std)


def _fetch(place: Path, folder: Path) -> None:
    """Download the archive to ``place``. It is unpacked in a temporary folder first, so ``folder`` is always complete."""
    from torchvision.datasets.utils import download_and_extract_archive

    with made(place), tempfile.TemporaryDirectory(prefix=f".{FOLDER}-", dir=place) as aside:
        download_and_extract_archive(URL, str(place), aside, f"{FOLDER}.zip", MD5)
        (Path(aside) / FOLDER).rename(folder)


def _lines(path: Path) -> list[str]:
    """The non-empty lines of a text file. Raises InputError."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise InputError(f"dataset tiny_imagenet: no file {path}; expected the original layout, as in {URL}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from None


def _images(folder: Path, left_out: Counter[str]) -> list[Path]:
    return [folder / name for name in files.image_names(folder, left_out)]


def _validation(folder: Path, classes: list[str]) -> tuple[list[Path], np.ndarray, int]:
    """The annotated images of these classes that exist, their labels, and how many other images are annotated."""
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    there = set(files.image_names(folder / "images"))
    annotations = _lines(folder / "val_annotations.txt")
    paths, labels = [], []
    seen: set[str] = set()
    for number, line in enumerate(annotations, 1):
        name, tab, rest = line.partition("\t")
        if not tab:
            raise InputError(f"{folder / 'val_annotations.txt'}, line {number}: expected a file name, a tab and a "
                             f"wnid, got {line[:60]!r}")
        if name in seen:
            raise InputError(f"{folder / 'val_annotations.txt'}, line {number}: {name} is there twice; remove one")
        seen.add(name)
        label = label_of.get(rest.split("\t")[0].strip())
        if label is not None and name in there:
            paths.append(folder / "images" / name)
            labels.append(label)
    if not paths:
        raise InputError(f"dataset tiny_imagenet: no image in {folder / 'images'} for the {len(classes)} classes that "
                         f"have training images; unpack {URL} again")
    return paths, np.array(labels), len(annotations) - len(paths)


def _class_names(words: Path, wnids: list[str]) -> dict[str, str]:
    """The first name of each class in words.txt, with its wnid if several classes share it; the wnid if it has none."""
    lines = [line.split("\t", 1) for line in _lines(words) if "\t" in line] if words.is_file() else []
    known = dict(lines)
    if wrong := [line for line in lines if line[0] in wnids and known[line[0]] != line[1]]:
        raise InputError(f"{words} has two names for {wrong[0][0]}: {wrong[0][1]!r} and {known[wrong[0][0]]!r}; remove one")
    first = {wnid: known.get(wnid, "").split(",")[0].strip() or wnid for wnid in wnids}
    times = Counter(first.values())
    return {wnid: name if times[name] == 1 else f"{name} ({wnid})" for wnid, name in first.items()}


def _read(paths: list[Path]) -> np.ndarray:
    return files.fill(np.empty((len(paths), SIDE, SIDE, 3), dtype=np.uint8), paths, _decode)


def _decode(path: Path) -> np.ndarray:
    image = files.decode(path, lambda image: files.convert(image, path, 3))
    if image.shape[:2] != (SIDE, SIDE):
        raise InputError(f"{path} is {image.shape[1]}x{image.shape[0]} pixels; tiny_imagenet has images of "
                         f"{SIDE}x{SIDE}; extract it from the archive again, or read other sizes with data.source=folder")
    return image
