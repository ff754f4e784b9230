"""Your own images in a folder tree, one folder per class."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from datastill.data import _image_files as files
from datastill.data._fit import Fit, square
from datastill.data._layout import TEST, TRAIN, VALIDATION, Split, check_no_split_inside, layout
from datastill.data.source import Arrays, Source
from datastill.errors import InputError
from datastill.store import once

MEMORY_LIMIT = 4 * 2**30  # bytes of decoded images; a larger dataset is decoded once into a file and memory-mapped


class Folder(Source):
    """Images in ``train/<class>/...`` with ``test/<class>/...``, or simply ``<class>/...``, or ``<class>/train/...``.

    Splits are known by the usual names in any case: train, Training, train_set, seg_train; test, Testing; val, valid,
    validation, dev, eval. With both test and validation folders, the latter's images are used for validation, unless
    ``data.validation`` holds out some of the training images; a validation folder alone contains the test images. Without
    either, a part of the images is held out for testing (``data.test``).

    Classes are the folder names in alphabetical order; links are followed. Every format that Pillow opens as a picture is
    read, of several frames the first; what is left out is said in a warning of the logger ``datastill``. Images are turned
    upright as their EXIF data say, and what is transparent is shown over white. Images of several sizes need ``data.size``;
    files that are neither 8-bit gray nor RGB, and folders that mix the two, need ``data.channels``. Datasets that decode to
    more than 4 GiB are memory-mapped from a cache folder (``DATASTILL_CACHE``, by default in the system's temporary folder).

    nested: the folders are classes, although they contain only folders of equal names, which could be the classes.
    """

    fits: ClassVar[bool] = True

    nested: bool = False

    def read(self, place: Path, size: int | None, channels: int | None, fit: Fit = "crop") -> Arrays:
        if not place.is_dir():
            raise InputError(f"dataset folder: no folder {place}; set data.path to a folder with one subfolder per class")
        left_out: Counter[str] = Counter()
        found = layout(place, self.nested, left_out)
        kinds = (TRAIN, TEST, VALIDATION)
        listed = [_listed(split, kind, left_out) for split, kind in zip(found, kinds, strict=True) if split]
        _count_outside({place, *(split.folder for split in found if split)}, left_out)
        files.say_left_out(place, left_out)
        reader = _Reader(size, channels, fit)
        pairs = [(reader.read(paths), targets) for paths, targets in listed if paths]
        names = [[str(path.relative_to(place)) for path in paths] for paths, _ in listed]
        return Arrays(pairs[0], pairs[1] if len(pairs) > 1 else None, tuple(found.train.classes), mapped=reader.mapped,
                      validation=pairs[2] if len(pairs) > 2 else None, names=names)


def _listed(split: Split, kind: str, left_out: Counter[str]) -> tuple[list[Path], np.ndarray]:
    """The image files of a split and their targets (N,). Raises InputError if there are no training or test images."""
    paths: list[Path] = []
    counts = []
    for folder in split.classes.values():
        found = files.image_tree(folder, left_out)
        check_no_split_inside(folder, kind, found)
        full = [path for path in found if path.stat().st_size]
        left_out["empty files"] += len(found) - len(full)
        paths += full
        counts.append(len(full))
    if not paths and kind != VALIDATION:
        raise InputError(f"{split.folder} contains no images (looked for {', '.join(sorted(files.SUFFIXES))}; left out: "
                         f"{files.kinds(left_out) or 'nothing'})")
    return paths, np.repeat(np.arange(len(counts)), counts)


def _count_outside(folders: set[Path], left_out: Counter[str]) -> None:
    """Count the images that are in no folder of a class, and the links to folders that are gone."""
    for folder in folders:
        beside: Counter[str] = Counter()
        left_out["images outside the folders of classes"] += len(files.image_names(folder, beside))
        left_out["dead links"] += beside["dead links"]


class _Reader:
    """Decodes splits to one size and number of channels: those given, else those of the first image."""

    def __init__(self, size: int | None, channels: int | None, fit: Fit) -> None:
        self.size, self.channels, self.fit, self.asked = size, channels, fit, channels is not None
        self.shape: tuple[int, int, int] | None = None
        self.first = Path()
        self.mapped = False

    def read(self, paths: list[Path]) -> np.ndarray:
        """The images (N, H, W, C) uint8 of one split."""
        if self.shape is None:
            self.first = paths[0]
            self.shape = self._decode(self.first).shape
        if len(paths) * int(np.prod(self.shape)) > MEMORY_LIMIT:
            return self._map(paths)
        return files.fill(np.empty((len(paths), *self.shape), dtype=np.uint8), paths, self._decode)

    def _map(self, paths: list[Path]) -> np.ndarray:
        """A memory-mapped array, decoded on first use; the name of the cache file is a hash of what it was created from."""
        self.mapped = True
        listing = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
        name = hashlib.sha256(repr((listing, self.size, self.channels, self.fit)).encode()).hexdigest()[:24]
        cache = Path(os.environ.get("DATASTILL_CACHE", Path(tempfile.gettempdir()) / "datastill"))
        assert self.shape is not None
        target, shape = cache / f"{name}.npy", (len(paths), *self.shape)

        def make(aside: Path) -> None:
            images = np.lib.format.open_memmap(aside, "w+", np.uint8, shape)
            files.fill(images, paths, self._decode)
            images.flush()

        try:
            return np.load(once(target, make), mmap_mode="c")
        except OSError as error:
            raise InputError(f"{target} cannot be written: {error.strerror or error}; set DATASTILL_CACHE to a folder with "
                             "enough space") from None

    def _decode(self, path: Path) -> np.ndarray:
        """One image as (H, W, C) uint8. Raises InputError for a damaged file, or a mode or size that does not match."""
        array = files.decode(path, lambda image: self._resize(self._convert(image, path)))
        if self.shape is not None and array.shape[:2] != self.shape[:2]:
            raise InputError(f"{path} is {array.shape[1]}x{array.shape[0]} pixels but {self.first.name} is "
                             f"{self.shape[1]}x{self.shape[0]}; set data.size to resize all of them")
        return array

    def _resize(self, image: Image.Image) -> Image.Image:
        return image if self.size is None else square(image, self.size, self.fit)

    def _convert(self, image: Image.Image, path: Path) -> Image.Image:
        if self.channels is None:
            if image.mode not in files.PLAIN:
                raise InputError(f"{path} has mode {image.mode}; expected 8-bit gray (L) or RGB; " + (
                    "set data.channels to 1 or 3 to convert" if image.mode in files.CONVERTIBLE
                    else "convert it first"))
            self.channels = files.PLAIN[image.mode]
        if not self.asked and image.mode in files.PLAIN and files.PLAIN[image.mode] != self.channels:
            raise InputError(f"{path} has mode {image.mode}, earlier images had {self.channels} channel(s); "
                             "set data.channels to 1 or 3 to convert all of them")
        if not self.asked and image.mode in files.CONVERTIBLE:
            raise InputError(f"{path} has mode {image.mode}; set data.channels to 1 or 3 to convert all images")
        return files.convert(image, path, self.channels)
