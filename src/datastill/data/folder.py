"""Your own images in a folder tree, one folder per class."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from datastill.data import _image_files as files
from datastill.data.source import Arrays, Source
from datastill.errors import InputError
from datastill.store import once

MEMORY_LIMIT = 4 * 2**30  # bytes of decoded images; a larger dataset is decoded once into a file and memory-mapped


TESTS = ("test", "val", "valid", "validation")  # names of the folder of test images, in order of preference


class Folder(Source):
    """Images in ``train/<class>/...`` with ``test/<class>/...``, or simply ``<class>/...``.

    Instead of ``test/`` the folder may be called ``val/``, ``valid/`` or ``validation/``; the first of the four that exists
    is used.

    Classes are the folder names in alphabetical order. Images of several sizes need ``data.size``; files that are neither
    8-bit gray nor RGB, and folders that mix the two, need ``data.channels``. Without a test folder, a part of the images
    is held out for testing (``data.test``). Datasets that decode to more than 4 GiB are memory-mapped from a cache folder
    (``DATASTILL_CACHE``, by default in the system's temporary folder).
    """

    def read(self, place: Path, size: int | None, channels: int | None) -> Arrays:
        if not place.is_dir():
            raise InputError(f"dataset folder: no folder {place}; set data.path to a folder with one subfolder per class")
        train, test = place, None
        if (place / "train").is_dir():
            train, test = place / "train", _test_folder(place)
        classes = files.class_folders(train, test)
        reader = _Reader(size, channels)
        pairs = [reader.read(split, classes) for split in (train, test) if split is not None]
        return Arrays(pairs[0], pairs[1] if test is not None else None, tuple(classes), mapped=reader.mapped)


def _test_folder(place: Path) -> Path | None:
    """The folder of test images next to train/. Raises InputError if there are only folders with other names."""
    for name in TESTS:
        if (place / name).is_dir():
            return place / name
    if others := [name for name in files.folder_names(place) if name != "train"]:
        shown = ", ".join(others[:5]).encode(errors="backslashreplace").decode()
        raise InputError(f"{place} contains train and {shown}{' and more' if len(others) > 5 else ''}; rename the folder "
                         "of test images to test/, or move all except train away to hold out a part of train for testing")
    return None


class _Reader:
    """Decodes splits to one size and number of channels: those given, else those of the first image."""

    def __init__(self, size: int | None, channels: int | None) -> None:
        self.size, self.channels, self.asked = size, channels, channels is not None
        self.shape: tuple[int, int, int] | None = None
        self.first = Path()
        self.mapped = False

    def read(self, split: Path, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(images (N, H, W, C) uint8, targets (N,)) of one split."""
        found = [(path, label) for label, name in enumerate(classes) for path in files.image_tree(split / name)]
        if not found:
            raise InputError(f"{split} contains no images (looked for {', '.join(sorted(files.SUFFIXES))})")
        if self.shape is None:
            self.first = found[0][0]
            self.shape = self._decode(self.first).shape
        paths = [path for path, _ in found]
        targets = np.array([label for _, label in found])
        bytes_needed = len(found) * int(np.prod(self.shape))
        if bytes_needed > MEMORY_LIMIT:
            return self._map(paths), targets
        return files.fill(np.empty((len(found), *self.shape), dtype=np.uint8), paths, self._decode), targets

    def _map(self, paths: list[Path]) -> np.ndarray:
        """A memory-mapped array, decoded on first use; the name of the cache file is a hash of what it was created from."""
        self.mapped = True
        listing = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
        name = hashlib.sha256(repr((listing, self.size, self.channels)).encode()).hexdigest()[:24]
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
        return image if self.size is None else image.resize((self.size, self.size), Image.Resampling.BILINEAR)

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
