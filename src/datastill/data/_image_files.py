"""Image files: listing them, saying which are left out, decoding them in threads, and images decoded on access."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from datastill.data._caveats import say
from datastill.data._fit import Fit, square
from datastill.data.images import Lazy
from datastill.errors import InputError
from datastill.files import real
from datastill.late import torch

if TYPE_CHECKING:
    from torch import Tensor

NO_PICTURES = {"BUFR", "CUR", "EPS", "GRIB", "HDF5", "ICNS", "ICO", "IPTC", "MPEG", "PSD", "WMF"}  # icons, documents, stubs
SUFFIXES = {suffix for suffix, form in Image.registered_extensions().items() if form in Image.OPEN.keys() - NO_PICTURES}
UNREAD = {".heic", ".heif", ".svg", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".eps", ".psd", ".jxl",
          ".pdf", ".dcm", ".nii"}  # pictures all the same
PLAIN = {"L": 1, "RGB": 3}  # modes used as they are
CONVERTIBLE = {"1", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr"}  # modes with an unambiguous conversion to 8-bit gray or RGB

Decoder = Callable[[Path], np.ndarray]  # a file -> (H, W, C)


def is_image(name: str) -> bool:
    """Whether a file of this name counts as an image: Pillow can open its format and it is not hidden."""
    return _suffix(name) in SUFFIXES and not name.startswith(".")


def _suffix(name: str) -> str:
    """In lower case, with its dot; a Path for each of a million files would take seconds."""
    _, dot, end = name.rpartition(".")
    return dot and dot + end.lower()


def image_names(folder: Path, left_out: Counter[str] | None = None) -> list[str]:
    """Names of the image files directly in ``folder``, sorted; empty if the folder does not exist. What else is there is
    counted by kind in ``left_out``. Raises InputError for a folder that cannot be read."""
    if not folder.is_dir():
        return []
    left_out = Counter() if left_out is None else left_out
    with _entries(folder) as entries:  # may be a million files: avoid a Path and a stat for each
        return sorted(entry.name for entry in entries if _taken(entry, left_out) and not entry.is_dir())


def image_tree(folder: Path, left_out: Counter[str] | None = None) -> list[Path]:
    """The image files in ``folder`` and its subfolders, sorted; empty if the folder does not exist. Links are followed. What
    else is there is counted by kind in ``left_out``. Raises InputError for a folder that cannot be read."""
    if not folder.is_dir():
        return []
    above = {_identity(path) for path in (*folder.absolute().parents, *real(folder).parents)}
    return sorted(map(Path, _walk(folder, above, Counter() if left_out is None else left_out)))


@contextmanager
def _entries(folder: Path | str) -> Iterator[Iterator[os.DirEntry[str]]]:
    """What is in a folder. Raises InputError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            yield entries
    except OSError as error:
        raise InputError(f"{error.filename or folder} cannot be read: {error.strerror}") from None


def _walk(folder: Path | str, above: set[tuple[int, int]], left_out: Counter[str]) -> Iterator[str]:
    """The image files in a tree. ``above``: the folders it is in, which a link must not lead back to."""
    if (here := _identity(folder)) in above:
        left_out["links in a circle"] += 1
        return
    with _entries(folder) as entries:
        for entry in entries:
            if not _taken(entry, left_out):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, above | {here}, left_out)
            else:
                yield entry.path


def _identity(folder: Path | str) -> tuple[int, int]:
    found = os.stat(folder)  # noqa: PTH116 - of many folders
    return found.st_dev, found.st_ino


def _taken(entry: os.DirEntry[str], left_out: Counter[str]) -> bool:
    """Whether it is a folder or an image file; if not, its kind is counted, but for hidden files that are no images."""
    folder, file = _is(entry.is_dir), _is(entry.is_file)
    suffix = _suffix(entry.name)
    if _hidden(entry.name):
        left_out["hidden"] += folder or suffix in SUFFIXES
    elif folder or (file and is_image(entry.name)):
        return True
    elif file:
        left_out[suffix or "no suffix"] += 1
    else:  # reading a FIFO would block forever
        left_out["dead links" if entry.is_symlink() else "not files"] += 1
    return False


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of this kind; a link to itself is of none."""
    try:
        return kind()
    except OSError:
        return False


def _hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or one that macOS adds to archives, or Windows to folders of pictures."""
    return name.startswith((".", "__MACOSX")) or name.lower() in ("thumbs.db", "ehthumbs.db", "desktop.ini")


def kinds(left_out: Counter[str]) -> str:
    """What is left out, in words: ".heic: 12, dead links: 3"."""
    shown = [f"{kind}: {count}" for kind, count in left_out.most_common() if count]
    more = f" and {len(shown) - 8} more kinds" if len(shown) > 8 else ""
    return (", ".join(shown[:8]) + more).encode(errors="backslashreplace").decode()


def say_left_out(place: Path, left_out: Counter[str]) -> None:
    """Say what is left out of the images at ``place``, if anything is."""
    if text := kinds(left_out):
        advice = "; to use pictures in a format that Pillow cannot open, convert them, to PNG for example"
        say(place, f"left out: {text}{advice if UNREAD & set(left_out) else ''}")


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
    """Names of the folders in ``folder``, sorted, except hidden ones and those that macOS adds to archives. Raises
    InputError if it cannot be read."""
    with _entries(folder) as entries:
        return sorted(entry.name for entry in entries if not _hidden(entry.name) and _is(entry.is_dir))


def decode(path: Path, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """One image, (H, W, C), as ``upright`` reads it. ``change`` converts it to gray or RGB and resizes it. Raises
    InputError."""
    array = np.asarray(upright(path, change))
    return array[..., None] if array.ndim == 2 else array


def upright(path: Path, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """One image, upright as its EXIF data say, of several frames the first, then changed. Raises InputError."""
    try:
        with Image.open(path) as image:
            image.filename = ""  # or Pillow maps a gray TIFF into memory, with its sides exchanged if it has to be turned
            image.load()
            with suppress(Exception):  # damaged EXIF data do not make the pixels unreadable
                ImageOps.exif_transpose(image, in_place=True)
            return change(image)
    except InputError:
        raise
    except Exception as error:  # Pillow's many formats raise many kinds for damaged files
        raise InputError(f"{path} cannot be read as an image: {str(error) or type(error).__name__}; replace it, or take it "
                         "out of the folder") from None


def convert(image: Image.Image, path: Path, channels: int) -> Image.Image:
    """The image with ``channels`` channels, 1 or 3; what is transparent is shown over white. Raises InputError for a mode
    that does not fit into 8 bits."""
    if image.mode not in CONVERTIBLE | set(PLAIN):
        raise InputError(f"{path} has mode {image.mode}, which cannot be safely converted to 8 bits; convert it first")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    elif PLAIN.get(image.mode) == channels:
        return image
    return image.convert("RGB").convert("L" if channels == 1 else "RGB")


def fill(images: np.ndarray, paths: Sequence[Path], decoder: Decoder) -> np.ndarray:
    """Fill ``images`` (N, H, W, C), each row decoded from its path, in threads. An error in ``decoder`` is raised here."""
    with ThreadPoolExecutor() as threads:
        for row, image in enumerate(threads.map(decoder, paths)):
            images[row] = image
    return images


class LazyFiles(Lazy):
    """Images in files, decoded on access and not cached. ``shape`` is (N, C, side, side).

    ``names`` are relative to ``folder``. Names, file sizes and a ``fit`` other than "crop" identify the images; the location
    of the folder does not.
    """

    def __init__(self, folder: Path, names: list[str], channels: int, side: int, fit: Fit) -> None:
        self.folder, self.names, self.fit = folder, names, fit
        self.shape = (len(names), channels, side, side)

    def __getitem__(self, indices: Tensor) -> Tensor:
        channels, height, width = self.shape[1:]
        images = np.empty((len(indices), height, width, channels), dtype=np.uint8)
        fill(images, self._paths(indices), self._decode)
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def originals(self, indices: Tensor, change: Callable[[int, Image.Image], Image.Image]) -> list[Image.Image]:
        def read(number: int, path: Path) -> Image.Image:
            return upright(path, lambda image: change(number, convert(image, path, self.shape[1])))

        with ThreadPoolExecutor() as threads:
            return list(threads.map(read, range(len(indices)), self._paths(indices)))

    def _paths(self, indices: Tensor) -> list[Path]:
        return [self.folder / self.names[i] for i in indices.tolist()]

    def _decode(self, path: Path) -> np.ndarray:
        return decode(path, lambda image: square(convert(image, path, self.shape[1]), self.shape[2], self.fit))

    def identity(self, indices: Tensor) -> bytes:
        try:
            names = [self.names[i] for i in indices.tolist()]
            sizes = [(name, (self.folder / name).stat().st_size) for name in names]
        except OSError as error:
            raise InputError(f"{error.filename} cannot be read: {error.strerror}; restore it or remove it") from None
        return repr(sizes).encode() + ("" if self.fit == "crop" else self.fit).encode()
