"""Your own images in a folder tree, one folder a class."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from datastill.data.source import Arrays, Source
from datastill.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
MEMORY_LIMIT = 4 * 2**30  # bytes of decoded images; a larger set is decoded once into a file and memory-mapped
PLAIN = {"L": 1, "RGB": 3}  # modes that are taken as they are
CONVERTIBLE = {"1", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr"}  # taken when data.channels says what they become


class Folder(Source):
    """Images in ``train/<class>/...`` with ``test/<class>/...`` (or ``val/``), or simply ``<class>/...``.

    Classes are the folder names in alphabetical order. Images of several sizes need ``data.size``; files that are neither
    8-bit grey nor RGB, and folders that mix the two, need ``data.channels``. Without a test folder a part of the images
    is kept for testing (``data.test``). Sets that decode to more than 4 GiB are memory-mapped from a cache folder
    (``DATASTILL_CACHE``, else the system's temporary folder).
    """

    def read(self, place: Path, size: int | None, channels: int | None) -> Arrays:
        if not place.is_dir():
            raise InputError(f"data set folder: no folder {place}; set data.path to a folder with one folder a class")
        train, test = place, None
        if (place / "train").is_dir():
            train = place / "train"
            test = next((place / name for name in ("test", "val") if (place / name).is_dir()), None)
        classes = _classes(train)
        if test is not None and _classes(test) != classes:
            raise InputError(f"{test} and {train} hold different classes: "
                             f"{', '.join(sorted(set(_classes(test)) ^ set(classes)))}; they must be the same")
        reader = _Reader(size, channels)
        pairs = [reader.read(split, classes) for split in (train, test) if split is not None]
        return Arrays(pairs[0], pairs[1] if test is not None else None, tuple(classes), mapped=reader.mapped)


def _classes(split: Path) -> list[str]:
    found = sorted(p.name for p in split.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not found:
        raise InputError(f"{split} holds no folders; expected one folder a class")
    return found


class _Reader:
    """Decodes splits to one size and one number of channels, those of the first image where none is asked for."""

    def __init__(self, size: int | None, channels: int | None) -> None:
        self.size, self.channels, self.asked = size, channels, channels is not None
        self.shape: tuple[int, int, int] | None = None
        self.first = Path()
        self.mapped = False

    def read(self, split: Path, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(images (N, H, W, C) uint8, targets (N,)) of one split."""
        files = [(path, label) for label, name in enumerate(classes) for path in _images(split / name)]
        if not files:
            raise InputError(f"{split} holds no images (looked for {', '.join(sorted(SUFFIXES))})")
        if self.shape is None:
            self.first = files[0][0]
            self.shape = self._decode(self.first).shape
        paths = [path for path, _ in files]
        targets = np.array([label for _, label in files])
        bytes_needed = len(files) * int(np.prod(self.shape))
        if bytes_needed <= MEMORY_LIMIT:
            images = np.empty((len(files), *self.shape), dtype=np.uint8)
            self._fill(images, paths)
        else:
            images = self._map(paths)
        return images, targets

    def _fill(self, images: np.ndarray, paths: list[Path]) -> None:
        with ThreadPoolExecutor() as threads:
            for row, image in enumerate(threads.map(self._decode, paths)):
                images[row] = image

    def _map(self, paths: list[Path]) -> np.ndarray:
        """A memory-mapped array, decoded on first use; the cache file is named by what it was made from."""
        self.mapped = True
        listing = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
        name = hashlib.sha256(repr((listing, self.size, self.channels)).encode()).hexdigest()[:24]
        cache = Path(os.environ.get("DATASTILL_CACHE", Path(tempfile.gettempdir()) / "datastill"))
        cache.mkdir(parents=True, exist_ok=True)
        target = cache / f"{name}.npy"
        if not target.exists():
            temporary = cache / f".{name}.{os.getpid()}"
            assert self.shape is not None
            try:
                images = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(paths), *self.shape))
                self._fill(images, paths)
                images.flush()
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        return np.load(target, mmap_mode="c")

    def _decode(self, path: Path) -> np.ndarray:
        """One image as (H, W, C) uint8. Raises InputError for a damaged file, an odd mode or an odd size."""
        try:
            with Image.open(path) as opened:
                image = self._convert(opened, path)
                wanted = image.size if self.size is None else (self.size, self.size)
                array = np.asarray(image.resize(wanted, Image.Resampling.BILINEAR))  # a copy where it has that size
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{path} cannot be read as an image: {error}") from None
        array = array[..., None] if array.ndim == 2 else array
        if self.shape is not None and array.shape[:2] != self.shape[:2]:
            raise InputError(f"{path} is {array.shape[1]}x{array.shape[0]} pixels but {self.first.name} is "
                             f"{self.shape[1]}x{self.shape[0]}; set data.size to resize all of them")
        return array

    def _convert(self, image: Image.Image, path: Path) -> Image.Image:
        if self.channels is None:
            if image.mode not in PLAIN:
                raise InputError(f"{path} has mode {image.mode}; expected 8-bit grey (L) or RGB; " + (
                    "set data.channels to 1 or 3 to convert" if image.mode in CONVERTIBLE else "convert it first"))
            self.channels = PLAIN[image.mode]
        if PLAIN.get(image.mode) == self.channels:
            return image
        if not self.asked and image.mode in PLAIN:
            raise InputError(f"{path} has mode {image.mode}, images before it had {self.channels} channel(s); "
                             "set data.channels to 1 or 3 to convert all of them")
        if image.mode not in CONVERTIBLE | set(PLAIN):
            raise InputError(f"{path} has mode {image.mode}, which cannot be brought to 8 bits safely; convert it first")
        if not self.asked:
            raise InputError(f"{path} has mode {image.mode}; set data.channels to 1 or 3 to convert all images")
        return image.convert("RGB").convert("L" if self.channels == 1 else "RGB")


def _images(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
