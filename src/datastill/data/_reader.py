"""Image files of one dataset, decoded into arrays of one form: in memory or, if they are large, in a memory-mapped file."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from datastill.data import _image_files as files
from datastill.data._fit import Fit, square
from datastill.data.source import check_finite, extremes, read_npy, scale
from datastill.errors import InputError
from datastill.store import once
from datastill.tables import counted

MEMORY_LIMIT = 4 * 2**30  # bytes of decoded images; a larger split is decoded once into a file and memory-mapped
DEEP = {"I;16", "I;16L", "I;16B", "I", "F"}  # modes of more than 8 bits, which data.range maps

Limits = tuple[float, float]


class Reader:
    """Decodes files to one size, number of channels and kind of number: those given, else those of the first image.

    limits: the values that become 0 and 255, before an image is resized, so that averages hide none outside. Without them,
        images of more than 8 bits cannot be used, and only their extremes are read, as (1, 2, 1).
    """

    def __init__(self, size: int | None, channels: int | None, fit: Fit, limits: Limits | None) -> None:
        self.size, self.channels, self.fit, self.limits = size, channels, fit, limits
        self.first: tuple[Path, np.dtype, np.ndarray] | None = None  # its kind of number in the file, and decoded
        self.mapped = False

    def read(self, paths: list[Path]) -> np.ndarray:
        """The images (N, H, W, C) of one split. Raises InputError for a file that is damaged or unlike the first one."""
        self.first = self.first or (paths[0], *self._decode(paths[0]))
        first = self.first[2]
        if len(paths) * first.nbytes > MEMORY_LIMIT:
            return self._map(paths, first)
        return files.fill(np.empty((len(paths), *first.shape), first.dtype), paths, self._like_first)

    def _map(self, paths: list[Path], first: np.ndarray) -> np.ndarray:
        """A memory-mapped array, decoded on first use; the name of the cache file is a hash of what it was created from."""
        self.mapped = True
        listing = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
        what = repr((listing, self.size, self.channels, self.fit, self.limits))
        name = hashlib.sha256(what.encode()).hexdigest()[:24]
        target = Path(os.environ.get("DATASTILL_CACHE", Path(tempfile.gettempdir()) / "datastill")) / f"{name}.npy"

        def make(aside: Path) -> None:
            images = np.lib.format.open_memmap(aside, "w+", first.dtype, (len(paths), *first.shape))
            files.fill(images, paths, self._like_first)
            images.flush()

        try:
            return np.load(once(target, make), mmap_mode="c")
        except OSError as error:
            raise InputError(f"{target} cannot be written: {error.strerror or error}; set DATASTILL_CACHE to a folder with "
                             "enough space") from None

    def _like_first(self, path: Path) -> np.ndarray:
        assert self.first is not None
        (kind, array), (other, wanted, first) = self._decode(path), self.first
        if kind != wanted:
            raise InputError(f"{path} is {kind}, {other} is {wanted}; expected one kind of number in all images")
        (height, width, depth), (rows, columns, usual) = array.shape, first.shape
        if depth != usual:
            raise InputError(f"{path} has {counted(depth, 'channel')}, {other} has {counted(usual, 'channel')}; set "
                             "data.channels to 1 or 3 to convert all of them")
        if array.shape != first.shape:
            raise InputError(f"{path} is {width}x{height} pixels, {other} is {columns}x{rows}; set data.size to resize "
                             "all of them")
        return array

    def _decode(self, path: Path) -> tuple[np.dtype, np.ndarray]:
        """The kind of number in a file, and its image (H, W, C)."""
        array = _numbers(path) if path.suffix.lower() == ".npy" else files.decode(
            path, lambda image: self._plain(image, path))
        kind = array.dtype.newbyteorder("=")
        if self.limits is not None:
            array = scale(array, self.limits, str(path), "data.range")
        elif kind != np.uint8:
            check_finite(array, str(path))
            return kind, np.array(extremes(array), kind).reshape(1, 2, 1)
        return kind, self._resized(array, path)

    def _plain(self, image: Image.Image, path: Path) -> Image.Image:
        """Gray, RGB, or gray of more than 8 bits."""
        if image.mode in DEEP and not image.has_transparency_data:
            return image
        if self.channels is None and image.mode in files.CONVERTIBLE:
            raise InputError(f"{path} has mode {image.mode}; expected gray (L) or RGB; set data.channels to 1 or 3 to "
                             "convert all images")
        image = files.convert(image, path, self.channels or files.PLAIN.get(image.mode, 1))
        if self.limits is not None or self.size is None:
            return image
        return square(image, self.size, self.fit)  # already here, since an array of a photograph takes time

    def _resized(self, array: np.ndarray, path: Path) -> np.ndarray:
        if self.size is None or array.shape[:2] == (self.size, self.size):
            return array
        planes = [array] if array.shape[2] == 3 else np.moveaxis(array, 2, 0)  # pictures have one or three channels
        try:
            return np.dstack([np.asarray(square(Image.fromarray(plane), self.size, self.fit)) for plane in planes])
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None


def _numbers(path: Path) -> np.ndarray:
    """The array (H, W, C) in a .npy file. Raises InputError."""
    array = read_npy(path)
    if array.ndim not in (2, 3) or array.dtype.kind not in "iuf" or not array.size:
        raise InputError(f"{path} is no array of numbers (H, W) or (H, W, C)")
    return array[..., None] if array.ndim == 2 else array
