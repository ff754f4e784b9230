"""``Data``: which dataset to load, at which size, which part of it; and the splits it loads."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from datastill.data.digits import Digits
from datastill.data.images import Images, Lazy, mean_and_std
from datastill.data.source import Arrays, Source, check_arrays
from datastill.data.whitening import check_memory, fit_once
from datastill.description import NOT_DECISIVE, Description
from datastill.errors import InputError
from datastill.late import torch
from datastill.registry import kind
from datastill.rng import RNG
from datastill.tables import nearest


class Splits(NamedTuple):
    """Training images (without the validation images), validation images if requested, test images."""

    train: Images
    validation: Images | None
    test: Images


class Data(Description):
    """A dataset: its source, and preprocessing that is applied once, before any images are sampled.

    source: where the dataset comes from (``datastill list data``, or ``package.module:Class``), with the source's own
        settings if it has any. The source alone is enough: ``data=cifar10``.
    path: location of the files, for sources that read your own files (``folder``, ``npz``) or many files (``imagenet``):
        absolute, starting with ~, relative to the data root or, if it does not exist there, to the working directory.
    size: images are resized to size x size; required if a folder contains images of several sizes.
    channels: 1 or 3; images are converted. Required if a folder mixes gray and color images.
    validation: share of the training images held out for choosing hyperparameters, the same in each class.
    test: share of the images held out for testing if the source has no test split of its own.
    classes: names of the classes to use, in this order; default: all.
    keep: a file of training indices (.npy, or text with one per line); only these training images are used.
    zca: whiten all images with the covariance of the training images (MTT and later papers). Fitted once and cached next to
        the data; it is also stored with the distilled images, which are only useful together with it.
    """

    bare: ClassVar[str] = "source"

    source: Source = Digits()
    path: Annotated[str | None, NOT_DECISIVE] = None
    size: int | None = Field(default=None, ge=4, le=1024)
    channels: int | None = Field(default=None, ge=1, le=3)
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    test: float = Field(default=0.2, gt=0.0, lt=1.0)
    keep: Annotated[str | None, NOT_DECISIVE] = None
    classes: tuple[str, ...] = ()
    zca: bool = False

    @property
    def name(self) -> str:
        """Name of the source; for images passed in from Python, what they were built from."""
        return getattr(self.source, "label", "") or kind(self.source)

    def load(self, root: Path | str) -> Splits:
        """Load the dataset under the data root. Raises InputError if it is missing, damaged or unsuitable."""
        root = Path(root)
        if self.path is not None and not self.path.strip():
            raise InputError("data.path is empty, which would read the whole data folder; name a folder or file, or leave "
                             "it out")
        if self.channels == 2:
            raise InputError("data.channels: expected 1 or 3, got 2")
        arrays = check_arrays(self._read(root), self.name, self.size, self.channels)
        train, test = (self._of_classes(images) for images in self._apart(arrays))
        if self.keep:
            train = train.subset(self._read_keep(root / self.keep, len(train)))
            _check_no_class_lost(train, f"data.keep {self.keep}")
        held, rest = stratified(train.targets.numpy(), self.validation, RNG("data", "validation"), train.classes)
        validation = train.subset(torch.from_numpy(held)) if len(held) else None
        train = train if validation is None else train.subset(torch.from_numpy(rest))
        mean, std = _statistics(arrays, train)  # of the remaining training images only
        if validation is not None:
            validation = replace(validation, mean=mean, std=std)
        splits = Splits(replace(train, mean=mean, std=std, origin=self), validation, replace(test, mean=mean, std=std))
        return self._whiten(splits, root) if self.zca else splits

    def _of_classes(self, images: Images) -> Images:
        """The images of the requested classes; labels follow the requested order."""
        if not self.classes:
            return images
        for name in self.classes:
            if name not in images.classes:
                raise InputError(f"data.classes: {self.name} has no class {name!r}{nearest(name, images.classes)}")
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise InputError(f"data.classes: expected at least two different classes, got {', '.join(self.classes)}")
        number = torch.full((len(images.classes),), -1)
        number[[images.classes.index(name) for name in self.classes]] = torch.arange(len(self.classes))
        part = images.subset(torch.nonzero(number[images.targets] >= 0).squeeze(1))
        return replace(part, targets=number[part.targets], classes=self.classes)

    def _whiten(self, splits: Splits, root: Path) -> Splits:
        """All splits, whitened with the training images; the fit is cached under the root if that is writable."""
        train = splits.train
        check_memory(sum(len(split) for split in splits if split is not None), train.shape)
        whitening = fit_once(root / f"zca-{train.fingerprint}.safetensors", train.fingerprint, lambda: [
            train.batch(rows).x for rows in torch.arange(len(train)).split(4096)])
        validation = None if splits.validation is None else splits.validation.whiten(whitening)
        return Splits(train.whiten(whitening), validation, splits.test.whiten(whitening))

    def _read(self, root: Path) -> Arrays:
        """What the source reads at ``path``, relative to the root or else to the working directory."""
        try:
            path = Path(self.path or "").expanduser()
        except RuntimeError as error:  # ~ of an unknown user
            raise InputError(f"data.path: cannot resolve {self.path}: {error}") from None
        place = root / path
        if place.exists() or not self.path:
            return self.source.read(place, self.size, self.channels)
        here = Path.cwd() / path
        if here.exists():
            return self.source.read(here, self.size, self.channels)
        try:
            return self.source.read(place, self.size, self.channels)  # may download it
        except InputError as error:
            if here == place.absolute():
                raise
            raise InputError(f"{error}; {here} does not exist either") from None

    def _apart(self, arrays: Arrays) -> tuple[Images, Images]:
        """Training and test images; if the source has no test split, a part of the training images is held out."""
        train = self._images(arrays, arrays.train)
        if arrays.test is not None:
            return train, self._images(arrays, arrays.test)
        held, rest = stratified(arrays.train[1], self.test, RNG("data", "test"), arrays.classes)
        return train.subset(torch.from_numpy(rest)), train.subset(torch.from_numpy(held))

    def _images(self, arrays: Arrays, pair: tuple[np.ndarray | Lazy, np.ndarray]) -> Images:
        """One split, (N, H, W, C) -> (N, C, H, W), converted and resized as configured; mean and std are filled in later."""
        images, labels = pair[0], torch.from_numpy(pair[1].astype(np.int64))
        if isinstance(images, Lazy):  # the source has already applied size and channels
            return Images(images, labels, arrays.classes, (), ())
        if self.channels is not None and images.shape[3] != self.channels:
            if self.channels == 3:
                images = np.repeat(images, 3, axis=3)
            else:  # the luma of ITU-R 601, as PIL converts to gray
                images = np.rint(images @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
        turned = images.transpose(0, 3, 1, 2)
        pixels = torch.from_numpy(turned if arrays.mapped else np.ascontiguousarray(turned))  # a copy would load it
        if self.size is not None and tuple(pixels.shape[2:]) != (self.size, self.size):
            pixels = torch.cat([torch.nn.functional.interpolate(
                part.float(), size=(self.size, self.size), mode="bilinear", antialias=True).round().clamp(0, 255).byte()
                for part in pixels.split(1024)])
        return Images(pixels, labels, arrays.classes, (), (), mapped=arrays.mapped)

    def _read_keep(self, path: Path, count: int) -> torch.Tensor:
        try:
            with warnings.catch_warnings(action="ignore"):  # an empty file is reported below
                rows = np.load(path) if path.suffix == ".npy" else np.loadtxt(path, dtype=np.int64, ndmin=1)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"data.keep: {path} is not a list of indices: {error}") from None
        good = np.issubdtype(rows.dtype, np.integer) and rows.ndim == 1 and len(rows) > 0
        if not good or rows.min() < 0 or rows.max() >= count or len(np.unique(rows)) < len(rows):
            raise InputError(f"data.keep: {path} must contain at least one index, from 0 to {count - 1}, none of them twice")
        return torch.from_numpy(rows.astype(np.int64))


def stratified(targets: np.ndarray, share: float, rng: RNG,
               classes: tuple[str, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into (held out, rest), ascending; ``share`` of each class is held out, at least one if share > 0.

    Raises InputError if that would leave no images of a class (named by ``classes`` if given).
    """
    held = []
    for label in np.unique(targets) if share else ():
        rows = np.flatnonzero(targets == label)
        count = max(1, round(share * len(rows)))
        if count >= len(rows):
            name = repr(classes[label]) if classes else label
            raise InputError(f"class {name} has {len(rows)} images, too few to hold out {share:.0%}")
        held.append(rng(int(label)).numpy().permutation(rows)[:count])
    chosen = np.sort(np.concatenate(held)) if held else np.empty(0, dtype=np.int64)
    return chosen, np.setdiff1d(np.arange(len(targets)), chosen)


def _check_no_class_lost(images: Images, what: str) -> None:
    for name, rows in zip(images.classes, images.of_class, strict=True):
        if not len(rows):
            raise InputError(f"{what} leaves no training image of class {name!r}")


def _statistics(arrays: Arrays, train: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel: the standard values of the dataset, or those of its training images to four digits."""
    channels = train.shape[0]
    if arrays.mean is not None and arrays.std is not None and len(arrays.mean) == channels:
        return arrays.mean, arrays.std
    return mean_and_std(train)
