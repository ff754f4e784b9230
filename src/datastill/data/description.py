"""``Data``: which set to load, how large, which part; and the splits it loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field

from datastill.config import NOT_DECISIVE, Description, find
from datastill.data.images import Images
from datastill.data.source import Arrays, Source, check
from datastill.errors import InputError
from datastill.rng import RNG


class Splits(NamedTuple):
    """Training images (without the validation images), validation images if asked for, test images."""

    train: Images
    validation: Images | None
    test: Images


class Data(Description):
    """A data set by name, with what is done to it once, before anything is drawn.

    name: a source (``datastill list data``) or ``package.module:Class``.
    path: where a source of your own files (``folder``, ``npz``) finds them, relative to the data root.
    size: images are resized to size x size; needed where a folder holds images of several sizes.
    channels: 1 or 3; converts, and is needed where a folder mixes grey and colour images.
    validation: share of the training images kept apart to choose hyper-parameters on, the same in each class.
    test: share of the images kept apart for testing where the source has no test split of its own.
    keep: a file of training indices (.npy, or text with one a line) to reduce the training images to.
    """

    name: str = "digits"
    path: Annotated[str | None, NOT_DECISIVE] = None
    size: int | None = Field(default=None, ge=4, le=1024)
    channels: int | None = Field(default=None, ge=1, le=3)
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    test: float = Field(default=0.2, gt=0.0, lt=1.0)
    keep: Annotated[str | None, NOT_DECISIVE] = None

    def load(self, root: Path | str) -> Splits:
        """Read the set under the data root. Raises InputError for a missing, damaged or unfit set."""
        root = Path(root)
        if self.channels == 2:
            raise InputError("data.channels: expected 1 or 3, got 2")
        source = find(Source, self.name)()
        assert isinstance(source, Source)
        place = root / self.path if self.path else root
        arrays = check(source.read(place, self.size, self.channels), self.name)
        if arrays.test is None:
            arrays = self._split_off_test(arrays)
        assert arrays.test is not None
        train, test = (self._pixels(images, arrays.mapped) for images in (arrays.train[0], arrays.test[0]))
        targets = [torch.from_numpy(t.astype(np.int64)) for t in (arrays.train[1], arrays.test[1])]
        mean, std = self._statistics(arrays, train)
        whole = Images(train, targets[0], arrays.classes, mean, std, mapped=arrays.mapped)
        if self.keep:
            whole = whole.subset(self._read_keep(root / self.keep, len(whole)))
            _check_no_class_lost(whole, f"data.keep {self.keep}")
        held, rest = stratified(whole.targets.numpy(), self.validation, RNG("data", "validation"), whole.classes)
        return Splits(whole.subset(torch.from_numpy(rest)) if len(held) else whole,
                      whole.subset(torch.from_numpy(held)) if len(held) else None,
                      Images(test, targets[1], arrays.classes, mean, std, mapped=arrays.mapped))

    def _split_off_test(self, arrays: Arrays) -> Arrays:
        images, targets = arrays.train
        held, rest = stratified(targets, self.test, RNG("data", "test"), arrays.classes)
        return Arrays((images[rest], targets[rest]), (images[held], targets[held]), arrays.classes,
                      arrays.mean, arrays.std, arrays.mapped)

    def _pixels(self, images: np.ndarray, mapped: bool) -> torch.Tensor:
        """(N, H, W, C) -> (N, C, H, W) uint8, resized and converted as asked."""
        if self.channels is not None and images.shape[3] != self.channels:
            if self.channels == 3:
                images = np.repeat(images, 3, axis=3)
            else:  # the luma of ITU-R 601, as PIL converts to grey
                images = np.rint(images @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
        turned = images.transpose(0, 3, 1, 2)
        pixels = torch.from_numpy(turned if mapped else np.ascontiguousarray(turned))  # a copy would load a mapped set
        if self.size is None or tuple(pixels.shape[2:]) == (self.size, self.size):
            return pixels
        parts = [torch.nn.functional.interpolate(part.float(), size=(self.size, self.size), mode="bilinear",
                                                 antialias=True).round().clamp(0, 255).byte()
                 for part in pixels.split(1024)]
        return torch.cat(parts)

    def _statistics(self, arrays: Arrays, train: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
        channels = train.shape[1]
        if arrays.mean is not None and arrays.std is not None and len(arrays.mean) == channels:
            return arrays.mean, arrays.std
        parts = [part.double() / 255 for part in train.split(1024)]
        count = train.numel() / channels
        mean = sum(part.sum((0, 2, 3)) for part in parts) / count
        squares = sum(((part - mean.view(1, -1, 1, 1)) ** 2).sum((0, 2, 3)) for part in parts) / count
        std = squares.sqrt().clamp_min(1e-3)  # a channel of one colour stays finite
        return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())

    def _read_keep(self, path: Path, count: int) -> torch.Tensor:
        try:
            rows = np.load(path) if path.suffix == ".npy" else np.loadtxt(path, dtype=np.int64, ndmin=1)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"data.keep: {path} is no list of indices: {error}") from None
        good = np.issubdtype(rows.dtype, np.integer) and rows.ndim == 1 and len(rows) > 0
        if not good or rows.min() < 0 or rows.max() >= count or len(np.unique(rows)) < len(rows):
            raise InputError(f"data.keep: {path} must list different indices from 0 to {count - 1}, one at least")
        return torch.from_numpy(rows.astype(np.int64))


def stratified(targets: np.ndarray, share: float, rng: RNG,
               classes: tuple[str, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into (held, rest), ascending; ``share`` of each class is held, at least one where share > 0.

    Raises InputError where that would leave nothing of a class (named by ``classes`` if given).
    """
    held = []
    for label in np.unique(targets) if share else ():
        rows = np.flatnonzero(targets == label)
        count = max(1, round(share * len(rows)))
        if count >= len(rows):
            name = repr(classes[label]) if classes else label
            raise InputError(f"class {name} has {len(rows)} images, too few to keep {share:.0%} apart")
        held.append(rng(int(label)).numpy().permutation(rows)[:count])
    chosen = np.sort(np.concatenate(held)) if held else np.empty(0, dtype=np.int64)
    return chosen, np.setdiff1d(np.arange(len(targets)), chosen)


def _check_no_class_lost(images: Images, what: str) -> None:
    for name, rows in zip(images.classes, images.of_class, strict=True):
        if not len(rows):
            raise InputError(f"{what} leaves no training image of class {name!r}")
