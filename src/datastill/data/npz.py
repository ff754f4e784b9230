"""Your own arrays in one .npz file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datastill.data.source import Arrays, Source
from datastill.errors import InputError

LAYOUT = "x_train (N, H, W) or (N, H, W, C) uint8, y_train (N,) integers; optionally x_test, y_test and classes"


class Npz(Source):
    """A .npz file at ``data.path`` with x_train and y_train, and optionally x_test, y_test and classes.

    Images are uint8, (N, H, W) or (N, H, W, C) with 1 or 3 channels; targets are 0 to K - 1; ``classes`` names them in
    order. Without x_test, a part of the training images is held out for testing (``data.test``).
    """

    def read(self, place: Path, size: int | None, channels: int | None) -> Arrays:
        if not place.is_file():
            raise InputError(f"dataset npz: no file {place}; set data.path to an .npz file with {LAYOUT}")
        try:
            with np.load(place, allow_pickle=False) as file:
                table = {name: file[name] for name in file.files}
        except Exception as error:  # damaged files raise many kinds: zlib.error, BadZipFile, NotImplementedError, ...
            raise InputError(f"{place} cannot be read as .npz: {error}") from None
        for name in ("x_train", "y_train"):
            if name not in table:
                raise InputError(f"{place} has no array {name!r} (found: {', '.join(table) or 'none'}); expected {LAYOUT}")
        if ("x_test" in table) != ("y_test" in table):
            raise InputError(f"{place} has only one of x_test and y_test; provide both or neither")
        train = self._pair(table, "train", place)
        test = self._pair(table, "test", place) if "x_test" in table else None
        if "classes" in table and table["classes"].ndim != 1:
            raise InputError(f"{place}: classes has shape {table['classes'].shape}; expected the names in order, (K,)")
        if "classes" in table:
            return Arrays(train, test, tuple(map(str, table["classes"])))
        highest = max(int(pair[1].max(initial=0)) for pair in (train, test) if pair is not None)
        if highest >= max(1, len(train[1])):  # check before creating this many names
            raise InputError(f"{place}: targets go up to {highest} but there are only {len(train[1])} training images; "
                             "expected 0 to K - 1 for K classes")
        return Arrays(train, test, tuple(map(str, range(highest + 1))))

    def _pair(self, table: dict[str, np.ndarray], split: str, place: Path) -> tuple[np.ndarray, np.ndarray]:
        images, targets = table[f"x_{split}"], table[f"y_{split}"]
        if targets.ndim == 2 and targets.shape[1] == 1:
            targets = targets[:, 0]
        if images.dtype != np.uint8:
            raise InputError(f"{place}: x_{split} is {images.dtype}; expected uint8 with values 0 to 255")
        if not np.issubdtype(targets.dtype, np.integer) or targets.ndim != 1:
            raise InputError(f"{place}: y_{split} is {targets.dtype} of shape {targets.shape}; expected integers (N,)")
        return images[..., None] if images.ndim == 3 else images, targets
