"""Your own arrays in one .npz file."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np

from datastill.data.source import SPLITS, Arrays, Pair, Source, for_folder, named, of_splits, unreadable
from datastill.errors import InputError
from datastill.tables import shown

LAYOUT = ("x_train (N, H, W) or (N, H, W, C) uint8, y_train (N,) integers or names; optionally x_val, y_val, x_test, "
          "y_test and classes")
IMAGES, LABELS = {"x", "image", "images", "img", "imgs", "data"}, {"y", "label", "labels", "target", "targets"}


class Npz(Source):
    """A .npz file at ``data.path`` with x_train and y_train, and optionally x_val, y_val, x_test, y_test and classes; or
    with other usual names, such as MedMNIST's train_images and train_labels.

    Images are uint8 (other numbers need ``data.range``), (N, H, W) or (N, H, W, C) with any number of channels. Labels are 0
    to K - 1, ``classes`` names them in order; or they are names. Without x_test, x_val is the test split; without either, a
    part of the training images is held out for testing (``data.test``).
    """

    yours: ClassVar[bool] = True

    def read(self, place: Path, size: int | None, channels: int | None) -> Arrays:
        if not place.is_file():
            raise InputError(f"dataset npz: no file {place}; set data.path to an .npz file with {LAYOUT}{for_folder(place)}")
        if not zipfile.is_zipfile(place):
            raise InputError(f"{place} cannot be read as .npz: it is no zip archive; numpy.savez writes one, with {LAYOUT}")
        try:
            with np.load(place, allow_pickle=False) as file:
                table = {name: file[name] for name in file.files}
            if strange := [name for name, value in table.items() if not isinstance(value, np.ndarray)]:
                raise ValueError(f"{strange[0]} in it is not an array of numpy")
        except Exception as error:  # damaged files raise many kinds: zlib.error, BadZipFile, NotImplementedError, ...
            raise unreadable(place, ".npz", error) from None
        names = {role: _one_of(table, *role, place) for role in (
            (split, what) for split in SPLITS for what in ("x", "y"))}
        for what in ("x", "y"):
            if not names["training", what]:
                raise InputError(f"{place} has no array '{what}_train' (found: {', '.join(table) or 'none'}); expected "
                                 f"{LAYOUT}")
        pairs: dict[str, Pair] = {}
        for split, words in SPLITS.items():
            x, y = names[split, "x"], names[split, "y"]
            if bool(x) != bool(y):
                raise InputError(f"{place} has only one of x_{words[0]} and y_{words[0]}; provide both or neither")
            if x and y:
                pairs[split] = _images(table[x]), _labels(table[y], y, place)
        if "classes" in table and table["classes"].ndim != 1:
            raise InputError(f"{place}: classes has shape {table['classes'].shape}; expected the names in order, (K,)")
        return _of_classes(pairs, tuple(_text(table["classes"]).tolist()) if "classes" in table else (), place)


def _one_of(table: dict[str, np.ndarray], split: str, what: str, place: Path) -> str | None:
    """The array of a split and kind ("x", "y"): of this library's name, else of a usual one. Raises InputError if several
    are."""
    if (plain := f"{what}_{SPLITS[split][0]}") in table:
        return plain
    parts = {name: set(re.split(r"[\W_]+", name.lower())) for name in table}
    kinds = IMAGES if what == "x" else LABELS
    found = [name for name, of in parts.items() if len(of) == 2 and of & kinds and of & set(SPLITS[split])]
    if not found and split == "training":
        found = [name for name, of in parts.items() if len(of) == 1 and of & kinds]
    if len(found) > 1:
        raise InputError(f"{place}: {' and '.join(found)} may both be {plain}; rename the right one to {plain}")
    return found[0] if found else None


def _images(images: np.ndarray) -> np.ndarray:
    return images[..., None] if images.ndim == 3 else images


def _labels(labels: np.ndarray, name: str, place: Path) -> np.ndarray:
    """One label per image, integers or names."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 1 and labels.dtype.kind in "iuSU":
        return _text(labels) if labels.dtype.kind in "SU" else labels
    several = "; several labels per image (multi-label) are not supported, one-hot rows become numbers by argmax(1)"
    raise InputError(f"{place}: {name}: expected integers or names (N,), got {shown(labels)}"
                     f"{several if labels.ndim == 2 else ''}")


def _text(names: np.ndarray) -> np.ndarray:
    return np.char.decode(names, "utf-8", "surrogateescape") if names.dtype.kind == "S" else names.astype(str)


def _of_classes(pairs: dict[str, Pair], classes: tuple[str, ...], place: Path) -> Arrays:
    if any(pair[1].dtype.kind == "U" for pair in pairs.values()):
        return named(pairs, classes, str(place))
    highest = max(int(pair[1].max(initial=0)) for pair in pairs.values())
    count = len(pairs["training"][1])
    if not classes and highest >= max(1, count):  # check before creating this many names
        raise InputError(f"{place}: targets go up to {highest} but there are only {count} training images; expected 0 to "
                         "K - 1 for K classes")
    return of_splits(pairs, classes or tuple(map(str, range(highest + 1))))
