"""The interface of data sources, and the checks that every dataset has to pass."""

from __future__ import annotations

import unicodedata
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from datastill.data.images import Lazy
from datastill.description import Family
from datastill.errors import InputError

SMALLEST = 4  # pixels per side


@dataclass(frozen=True)
class Arrays:
    """What a source returns: images (N, H, W, C) uint8 and targets (N,) of both splits.

    Instead of an array of images there may be a ``Lazy`` that already has the requested size and channels.
    ``test`` is None if the source has no test split: a part of the training images is then held out for testing.
    ``validation``: images of the source's own for choosing hyperparameters, which test and training images do not contain.
    ``names``: of the training images, then of the test images, to say which one is meant.
    ``mean`` and ``std`` are the values commonly used for the dataset; if None, they are measured on the training images.
    """

    train: tuple[np.ndarray | Lazy, np.ndarray]
    test: tuple[np.ndarray | Lazy, np.ndarray] | None
    classes: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    mapped: bool = False
    validation: tuple[np.ndarray | Lazy, np.ndarray] | None = None
    names: Sequence[Sequence[str]] = ()


class Source(Family):
    """Reads one dataset. To add a source, put a class with ``read`` into a file in ``datastill/data``, or outside."""

    home: ClassVar[str] = "datastill.data"
    download: ClassVar[bool] = False  # whether it can be downloaded
    fits: ClassVar[bool] = False  # whether ``read`` also takes ``data.fit``, since it resizes images itself

    @abstractmethod
    def read(self, place: Path, size: int | None, channels: int | None) -> Arrays:
        """The dataset at ``place``: the data root, or ``data.path``. ``size`` and ``channels`` are the requested ones:
        sources of separate image files apply them while decoding (with ``fits``, and then ``data.fit`` as a fourth
        argument), others leave that to the caller."""


def check_arrays(arrays: Arrays, name: str, size: int | None = None, channels: int | None = None) -> Arrays:
    """Return the same arrays if they can be distilled after conversion to ``size`` and ``channels``, if given.

    Raises InputError for an empty class, a single class, a class name that is not valid Unicode, or a wrong shape.
    """
    for label, class_name in enumerate(arrays.classes):
        if not class_name.strip() or not _writable(class_name):
            raise InputError(f"{name}: class {label} is named {class_name!r}; expected a non-empty name of valid Unicode")
    if len(arrays.classes) < 2:
        raise InputError(f"{name}: {len(arrays.classes)} class; a classification dataset needs at least two")
    times = Counter(unicodedata.normalize("NFC", one).strip() for one in arrays.classes)
    if len(times) < len(arrays.classes):
        raise InputError(f"{name}: class names are not unique: {', '.join(one for one in times if times[one] > 1)}; names "
                         "that look the same count as one; rename or merge these classes")
    train = None
    for split, pair in (("training", arrays.train), ("test", arrays.test), ("validation", arrays.validation)):
        if pair is not None:
            check_split(*pair, split, arrays.classes, name)
            wanted = _wanted(pair[0], size, channels)
            train = train or wanted
            if wanted != train:
                raise InputError(f"{name}: training images are {train} (H, W, C), {split} images are {wanted}; they must "
                                 "match")
    return arrays


def _writable(text: str) -> bool:
    """Whether it is valid Unicode; file names and text arrays need not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_split(images: np.ndarray | Lazy, targets: np.ndarray, split: str, classes: tuple[str, ...], name: str) -> None:
    """Check images (N, H, W, C) and targets (N,) of a split, "training", "test" or "validation"; only training images must
    have every class.

    Raises InputError.
    """
    shape, dtype = _form(images)
    if len(shape) != 4 or shape[3] not in (1, 3) or dtype != np.uint8:
        raise InputError(f"{name}: {split} images are {dtype} of shape {shape}; "
                         "expected uint8 (N, H, W, C) with 1 or 3 channels")
    if min(shape[1:3]) < SMALLEST:
        raise InputError(f"{name}: {split} images are {shape[2]}x{shape[1]} pixels; "
                         f"expected at least {SMALLEST}x{SMALLEST}")
    if shape[0] != len(targets):
        raise InputError(f"{name}: {shape[0]} {split} images but {len(targets)} targets")
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
