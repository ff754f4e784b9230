"""The interface of data sources, and the checks that every dataset has to pass."""

from __future__ import annotations

import re
import unicodedata
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np

from datastill.data.images import Lazy
from datastill.description import Family
from datastill.errors import InputError
from datastill.tables import counted, is_unicode, shown

SMALLEST = 4  # pixels per side
SPLITS = {"training": ("train", "training"), "validation": ("val", "valid", "validation", "dev"),
          "test": ("test", "testing")}
Pair = tuple[np.ndarray | Lazy, np.ndarray]  # images (N, H, W, C) and targets (N,)
# numpy parses a header with ``ast``, which up to Python 3.11 fails now and then if two threads use it at once ("AST
# constructor recursion depth mismatch"); files of images are decoded in threads.
_ONE_HEADER = Lock()


@dataclass(frozen=True)
class Arrays:
    """What a source returns: images (N, H, W, C) and targets (N,) of the splits. Images are uint8, or other numbers that
    ``data.range`` maps to 8 bits.

    Instead of an array of images there may be a ``Lazy`` that already has the requested size and channels.
    ``test`` is None if the source has no test split: a part of the training images is then held out for testing.
    ``validation``: images of the source's own for choosing hyperparameters, which test and training images do not contain.
    ``names``: of the training images, then of the test and validation images, to say which one is meant.
    ``mean`` and ``std`` are the values commonly used for the dataset; if None, they are measured on the training images.
    ``scaled``: whether the source has applied ``data.range``.
    ``groups``: of each training image a number; images of one number stay on one side of every split that is made.
    """

    train: Pair
    test: Pair | None
    classes: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    mapped: bool = False
    validation: Pair | None = None
    names: Sequence[Sequence[str]] = ()
    scaled: bool = False
    groups: np.ndarray | None = None

    @property
    def splits(self) -> Iterator[tuple[str, Pair]]:
        """The splits there are, by name."""
        for name, pair in (("training", self.train), ("validation", self.validation), ("test", self.test)):
            if pair is not None:
                yield name, pair


def of_splits(found: Mapping[str, Pair], classes: tuple[str, ...]) -> Arrays:
    """Arrays of the splits a file has, by name as in ``SPLITS``; validation images are the test images if there are no
    others."""
    test = found.get("test", found.get("validation"))
    return Arrays(found["training"], test, classes, validation=found.get("validation") if "test" in found else None)


def named(found: Mapping[str, Pair], classes: tuple[str, ...], name: str) -> Arrays:
    """Arrays of splits whose targets are names; classes: in order, by default those that occur, numbers in them by value.

    Raises InputError for a name that is not among the classes.
    """
    occurring = {str(one) for _, labels in found.values() for one in np.unique(labels)}
    classes = classes or tuple(sorted(occurring, key=_natural))
    if unknown := sorted(occurring - set(classes)):
        raise InputError(f"{name}: labels {', '.join(unknown[:5])} are not among the classes {', '.join(classes[:6])}")
    number = {one: label for label, one in enumerate(classes)}
    return of_splits({split: (images, np.array([number[str(one)] for one in labels], dtype=np.int64))
                      for split, (images, labels) in found.items()}, classes)


def _natural(name: str) -> list[tuple[int, float, str]]:
    """A key to sort names by in which "10" follows "9", and "b10" follows "b9"."""
    return [(0, float(part), part) if part.isdecimal() else (1, 0.0, part)
            for part in re.split(r"(\d+)", name) if part]


def unreadable(place: Path, form: str, error: Exception) -> InputError:
    """The error about a file that cannot be read. What numpy says about pickled objects is advice not to be followed."""
    why = "it holds Python objects, not numbers or text" if "pickle" in str(error) else error
    return InputError(f"{place} cannot be read as {form}: {why}")


def read_npy(place: Path) -> np.ndarray:
    """The array in a .npy file. Raises InputError."""
    try:
        with _ONE_HEADER, place.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # damaged files raise many kinds
        raise unreadable(place, ".npy", error) from None


def for_folder(place: Path) -> str:
    """The end of an error about a file that is a folder."""
    return "; for a folder of images, set data.source=folder" if place.is_dir() else ""


class Source(Family):
    """Reads one dataset. To add a source, put a class with ``read`` into a file in ``datastill/data``, or outside."""

    home: ClassVar[str] = "datastill.data"
    download: ClassVar[bool] = False  # whether it can be downloaded
    bundled: ClassVar[bool] = False  # whether it reads no files of its own, so that ``data.path`` means nothing
    yours: ClassVar[bool] = False  # whether it reads a user's own files, which ``data.path`` must name
    fits: ClassVar[bool] = False  # whether ``read`` also takes ``data.fit`` and ``data.range``, since it resizes images

    @abstractmethod
    def read(self, place: Path, size: int | None, channels: int | None) -> Arrays:
        """The dataset at ``place``: the data root, or ``data.path``. ``size`` and ``channels`` are the requested ones:
        sources of separate image files apply them while decoding (with ``fits``, and then ``data.fit`` and
        ``data.range`` as further arguments), others leave that to the caller."""


def check_types(arrays: Arrays, name: str) -> Arrays:
    """Return the same arrays if they hold what they promise, whatever source they are from. Raises InputError."""
    if not isinstance(arrays.classes, (tuple, list)) or not all(isinstance(one, str) for one in arrays.classes):
        raise InputError(f"{name}: classes are {arrays.classes!r}; expected a tuple of names")
    for split, pair in {"training": arrays.train, **dict(arrays.splits)}.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputError(f"{name}: {split} data are {type(pair).__name__}; expected (images, targets)")
        for what, value, kinds in (("images", pair[0], (np.ndarray, Lazy)), ("targets", pair[1], np.ndarray)):
            if not isinstance(value, kinds):
                raise InputError(f"{name}: {split} {what} are {type(value).__name__}; expected a numpy array")
        if pair[1].ndim != 1 or pair[1].dtype.kind not in "iu":
            raise InputError(f"{name}: {split} targets are {pair[1].dtype} of shape {pair[1].shape}; expected integers (N,)")
    images = [len(pair[1]) for pair in (arrays.train, arrays.test, arrays.validation) if pair is not None]
    if arrays.names and (named := [len(one) for one in arrays.names]) != images:
        raise InputError(f"{name}: names are of {named} images; expected of {images}: training, test and validation images")
    return arrays


def check_arrays(arrays: Arrays, name: str, size: int | None = None, channels: int | None = None) -> Arrays:
    """Return the same arrays if they can be distilled after conversion to ``size`` and ``channels``, if given.

    Raises InputError for an empty class, a single class, a class name that is not valid Unicode, or a wrong shape.
    """
    for label, class_name in enumerate(arrays.classes):
        if not class_name.strip() or not is_unicode(class_name):
            raise InputError(f"{name}: class {label} is named {class_name!r}; expected a non-empty name of valid Unicode")
    if len(arrays.classes) < 2:
        raise InputError(f"{name}: {counted(len(arrays.classes), 'class')} ({_occurring(arrays.train[1], arrays.classes)}); "
                         "a classification dataset needs at least two")
    times = Counter(unicodedata.normalize("NFC", one).strip() for one in arrays.classes)
    if len(times) < len(arrays.classes):
        raise InputError(f"{name}: class names are not unique: {', '.join(one for one in times if times[one] > 1)}; names "
                         "that look the same count as one; rename or merge these classes")
    train = None
    for split, pair in arrays.splits:
        check_split(*pair, split, arrays.classes, name)
        form = _wanted(pair[0], size, channels)
        if channels is not None and (depth := _form(pair[0])[0][3]) not in (1, 3):
            raise InputError(f"{name}: data.channels converts between gray and color, but {split} images have "
                             f"{counted(depth, 'channel')}; leave it out")
        train = train or form
        if form != train:
            raise InputError(f"{name}: training images are {train} (H, W, C), {split} images are {form}; they must match")
    return arrays


def in_bytes(arrays: Arrays, name: str, limits: tuple[float, float] | None) -> Arrays:
    """The same arrays in 8 bits: values from the lower to the upper limit are mapped linearly to 0 to 255. Without limits
    they must be 8 bits already.

    Raises InputError: values outside; other numbers without limits, with the limits that would fit.
    """
    depths = {split: _form(pair[0])[1] for split, pair in arrays.splits}
    deep = [split for split, depth in depths.items() if depth != np.uint8 and depth.kind in "iuf"]
    if limits is None and deep:
        for split, pair in arrays.splits:
            check_finite(np.asarray(pair[0]), f"{name}: {split} images")
        ends = [end for _, pair in arrays.splits for end in extremes(np.asarray(pair[0]))]
        low, high = usable(min(ends), max(ends))
        raise InputError(f"{name}: {deep[0]} images are {depths[deep[0]]} with values from {min(ends)} to {max(ends)}; "
                         f"expected uint8, or the values that are to become 0 and 255, as in data.range=[{low},{high}]")
    if limits is None or arrays.scaled:
        return arrays
    if any(isinstance(pair[0], Lazy) for _, pair in arrays.splits):
        raise InputError(f"{name}: data.range is for arrays and files of more than 8 bits; these are read in 8 bits, leave "
                         "it out")
    scaled = {split: (scale(np.asarray(pair[0]), limits, f"{name}: {split} images", "data.range"), pair[1])
              for split, pair in arrays.splits}
    return replace(arrays, train=scaled["training"], validation=scaled.get("validation"), test=scaled.get("test"),
                   mapped=False)


def check_finite(images: np.ndarray, what: str) -> None:
    """Check that all values are finite numbers; no range can map others. Raises InputError."""
    if images.dtype.kind == "f" and (odd := images.size - np.count_nonzero(np.isfinite(images))):
        raise InputError(f"{what}: not finite: {odd} of {images.size} values (nan or infinite); replace them, such as by 0")


def extremes(images: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest number, (0, 0) if there are none."""
    return (images.min().item(), images.max().item()) if images.size else (0, 0)


def usable(low: float, high: float) -> tuple[float, float]:
    """Limits for values from ``low`` to ``high``, which may be equal."""
    return low, high if low < high else low + (abs(low) or 1)


def scale(images: np.ndarray, limits: tuple[float, float], what: str, setting: str) -> np.ndarray:
    """Numbers from the lower to the upper limit as uint8, 0 to 255. Raises InputError for values outside and NaN."""
    low, high = limits
    if images.dtype.kind not in "iuf" or not images.ndim:
        raise InputError(f"{what}: expected an array of numbers, got {shown(images)}")
    check_finite(images, what)
    if images.dtype == np.uint8 and high > 255:  # Pillow reads color images of 16 bits so
        raise InputError(f"{what}: read in 8 bits, 0 to 255, but {setting} ends at {high:.9g}; leave it out")
    outside = int(images.size - np.count_nonzero((images >= low) & (images <= high)))
    if outside:
        least, most = extremes(images)
        raise InputError(f"{what}: {outside} of {images.size} values outside {setting}=[{low:.9g}, {high:.9g}]; all range "
                         f"from {least:.9g} to {most:.9g}")
    exact: Any = np.float32 if images.dtype in (np.float16, np.float32) else np.float64
    result = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), 1024):  # a part at a time: floats take several times the memory
        result[start:start + 1024] = np.rint((images[start:start + 1024].astype(exact) - low) * (255 / (high - low)))
    return result


def _occurring(targets: np.ndarray, classes: tuple[str, ...]) -> str:
    """Which labels there are, in words."""
    if not len(targets):
        return "no training images"
    low, high = targets.min(), targets.max()
    return f"all training images are of class {', '.join(classes)}" if low == high else \
        f"labels from {low} to {high}, expected 0, 1, ..."


def check_split(images: np.ndarray | Lazy, targets: np.ndarray, split: str, classes: tuple[str, ...], name: str) -> None:
    """Check images (N, H, W, C) and targets (N,) of a split, "training", "test" or "validation"; only training images must
    have every class.

    Raises InputError.
    """
    shape, dtype = _form(images)
    if len(shape) != 4 or shape[3] < 1 or dtype != np.uint8:
        raise InputError(f"{name}: {split} images are {dtype} of shape {shape}; expected uint8 (N, H, W, C)")
    exchanged = shape[3] > min(shape[1:3]) and shape[3] == max(shape[1:3])
    if exchanged or shape[1] < SMALLEST <= min(shape[2:]):
        raise InputError(f"{name}: {split} images have shape {shape} (N, H, W, C), which looks like another order of axes; "
                         "expected arrays (N, H, W, C), as transpose(0, 2, 3, 1) makes them, or tensors (N, C, H, W)")
    if min(shape[1:3]) < SMALLEST:
        raise InputError(f"{name}: {split} images are {shape[2]}x{shape[1]} pixels; "
                         f"expected at least {SMALLEST}x{SMALLEST}")
    if shape[0] != len(targets):
        raise InputError(f"{name}: {counted(shape[0], f'{split} image')} but {counted(len(targets), 'target')}")
    if len(targets) and (targets.min() < 0 or targets.max() >= len(classes)):
        raise InputError(f"{name}: {split} targets range from {targets.min()} to {targets.max()}; "
                         f"expected 0 to {len(classes) - 1} for {len(classes)} classes")
    counts = np.bincount(targets.astype(np.int64), minlength=len(classes))
    if split == "training" and (counts == 0).any():
        raise InputError(f"{name}: class {classes[int(counts.argmin())]!r} has no {split} images; "
                         "add some or leave the class out")
    if not len(targets):
        raise InputError(f"{name}: the {split} split is empty")


def _form(images: np.ndarray | Lazy) -> tuple[tuple[int, ...], np.dtype]:
    """Shape (N, H, W, C) and dtype of the images."""
    if isinstance(images, Lazy):
        count, channels, height, width = images.shape
        return (count, height, width, channels), np.dtype(np.uint8)
    return images.shape, images.dtype


def _wanted(images: np.ndarray | Lazy, size: int | None, channels: int | None) -> tuple[int, ...]:
    """(H, W, C) of an image after conversion to ``size`` and ``channels``; a ``Lazy`` is already converted."""
    height, width, depth = _form(images)[0][1:]
    return (height, width, depth) if isinstance(images, Lazy) else (size or height, size or width, channels or depth)
