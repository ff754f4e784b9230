"""Image files: listing them, decoding them in threads, and images that are decoded on access."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from datastill.data.images import Lazy
from datastill.errors import InputError
from datastill.late import torch

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
PLAIN = {"L": 1, "RGB": 3}  # modes used as they are
CONVERTIBLE = {"1", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr"}  # modes with an unambiguous conversion to 8-bit gray or RGB

Decoder = Callable[[Path], np.ndarray]  # a file -> (H, W, C) uint8


def is_image(name: str) -> bool:
    """Whether a file of this name counts as an image: its suffix is known and it is not hidden."""
    return name.lower().endswith(tuple(SUFFIXES)) and not name.startswith(".")


def image_names(folder: Path) -> list[str]:
    """Names of the image files directly in ``folder``, sorted; empty if the folder does not exist."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # may be a million files: avoid a Path and a stat for each
        return sorted(entry.name for entry in entries if is_image(entry.name) and entry.is_file())


def image_tree(folder: Path) -> list[Path]:
    """The image files in ``folder`` and its subfolders, sorted; empty if the folder does not exist."""
    try:
        return sorted(map(Path, _walk(folder))) if folder.is_dir() else []
    except OSError as error:
        raise InputError(f"{error.filename or folder} cannot be read: {error.strerror}") from None


def _walk(folder: Path | str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            elif is_image(entry.name) and entry.is_file():  # reading a FIFO would block forever
                yield entry.path


def class_folders(train: Path, test: Path | None) -> list[str]:
    """The classes: names of the folders in ``train``, sorted. Raises InputError if there are none or ``test`` has others."""
    classes = _some_folders(train)
    if test is not None and (odd := sorted(set(_some_folders(test)) ^ set(classes))):
        more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        names = ", ".join(odd[:5]).encode(errors="backslashreplace").decode()  # a file name need not be Unicode
        raise InputError(f"{test} and {train} contain different classes: {names}{more}; "
                         "they must be the same")
    return classes


def _some_folders(split: Path) -> list[str]:
    if not (found := folder_names(split)):
        raise InputError(f"{split} contains no folders; expected one folder per class")
    return found


def folder_names(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted, except hidden ones and those that macOS adds to archives."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))


def decode(path: Path, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """One image, (H, W, C) uint8; ``change`` converts it to gray or RGB and resizes it. Raises InputError."""
    try:
        with Image.open(path) as image:
            array = np.asarray(change(image))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from None
    return array[..., None] if array.ndim == 2 else array


def convert(image: Image.Image, path: Path, channels: int) -> Image.Image:
    """The image with ``channels`` channels, 1 or 3. Raises InputError for a mode that does not fit into 8 bits."""
    if PLAIN.get(image.mode) == channels:
        return image
    if image.mode not in CONVERTIBLE | set(PLAIN):
        raise InputError(f"{path} has mode {image.mode}, which cannot be safely converted to 8 bits; convert it first")
    return image.convert("RGB").convert("L" if channels == 1 else "RGB")


def fill(images: np.ndarray, paths: Sequence[Path], decoder: Decoder) -> np.ndarray:
    """Fill ``images`` (N, H, W, C), each row decoded from its path, in threads. An error in ``decoder`` is raised here."""
    with ThreadPoolExecutor() as threads:
        for row, image in enumerate(threads.map(decoder, paths)):
            images[row] = image
    return images


class LazyFiles(Lazy):
    """Images in files, decoded on access and not cached. ``shape`` is the (C, H, W) that ``decoder`` returns.

    ``names`` are relative to ``folder``. Names and file sizes identify the images; the location of the folder does not.
    """

    def __init__(self, folder: Path, names: list[str], shape: tuple[int, int, int], decoder: Decoder) -> None:
        self.folder, self.names, self.decoder = folder, names, decoder
        self.shape = (len(names), *shape)

    def __getitem__(self, indices: Tensor) -> Tensor:
        channels, height, width = self.shape[1:]
        images = np.empty((len(indices), height, width, channels), dtype=np.uint8)
        fill(images, [self.folder / self.names[i] for i in indices.tolist()], self.decoder)
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def identity(self, indices: Tensor) -> bytes:
        try:
            names = [self.names[i] for i in indices.tolist()]
            return repr([(name, (self.folder / name).stat().st_size) for name in names]).encode()
        except OSError as error:
            raise InputError(f"{error.filename} cannot be read: {error.strerror}; restore it or remove it") from None
