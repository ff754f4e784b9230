"""``Data``: which dataset to load, at which size, which part of it; and the splits it loads."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import BeforeValidator, Field, field_validator

from datastill.arguments import checked
from datastill.data._caveats import listening, say, say_classes, say_repeated
from datastill.data._fit import Fit, square
from datastill.data.digits import Digits
from datastill.data.given import Given
from datastill.data.images import Images, Lazy, mean_and_std
from datastill.data.source import Arrays, Pair, Source, check_arrays, check_types, in_bytes, read_npy
from datastill.data.whitening import check_memory, fit_once
from datastill.description import NOT_DECISIVE, Description
from datastill.errors import InputError
from datastill.late import torch
from datastill.registry import kind
from datastill.rng import RNG
from datastill.tables import counted, nearest, shown


def _separated(value: Any) -> Any:
    """The items of a text with commas, as it is typed: ``cat,dog`` or ``[cat,dog]``."""
    return tuple(part.strip() for part in value.strip("[]").split(",")) if isinstance(value, str) else value


def _name(value: Any) -> Any:
    """The name of a class that is a number."""
    return str(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else value


class Splits(NamedTuple):
    """Training images (without the validation images), validation images if requested or if the source has its own, test
    images."""

    train: Images
    validation: Images | None
    test: Images


class Data(Description):
    """A dataset: its source, and preprocessing that is applied once, before any images are sampled.

    source: where the dataset comes from (``datastill list data``, or ``package.module:Class``), with the source's own
        settings if it has any. The source alone is enough: ``data=cifar10``.
    path: location of the files, for sources that read your own files (``folder``, ``npz``, ``csv``) or many (``imagenet``):
        absolute, starting with ~, relative to the data root or, if it does not exist there, to the working directory.
    size: images are brought to size x size; required if a folder contains images of several sizes.
    fit: how images that are not square are brought to ``size``, whatever the source. "crop": the shorter side is resized to
        it, then the center is cropped (torchvision's Resize and CenterCrop); "squash": both sides are resized to it.
    channels: 1 or 3; images are converted. Required if a folder mixes gray and color images.
    range: the values that become 0 and 255, for images that are not 8 bits (floats, 16 bits): others are mapped linearly and
        rounded, and values outside are refused.
    validation: share of the training images held out for choosing hyperparameters, the same in each class. By default, the
        source's own validation images, if it has some, and none of the training images.
    test: share of the images held out for testing if the source has no test split of its own.
    classes: names of the classes to use, in this order (numbers if no class has such a name); default: all.
    keep: a file of training indices (.npy, or text with one per line); only these training images are used.
    zca: whiten all images with the covariance of the training images (MTT and later papers). Fitted once and cached next to
        the data; it is also stored with the distilled images, which are only useful together with it.
    """

    bare: ClassVar[str] = "source"

    source: Source = Digits()
    path: Annotated[str | None, NOT_DECISIVE] = None
    size: int | None = Field(default=None, ge=4, le=1024)
    fit: Fit = "crop"
    channels: int | None = Field(default=None, ge=1, le=3)
    range: Annotated[tuple[float, float] | None, BeforeValidator(_separated)] = None
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    test: float = Field(default=0.2, gt=0.0, lt=1.0)
    keep: Annotated[str | None, NOT_DECISIVE] = None
    classes: Annotated[tuple[Annotated[str, BeforeValidator(_name)], ...], BeforeValidator(_separated)] = ()
    zca: bool = False

    @field_validator("range")
    @classmethod
    def _rises(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not (value[0] < value[1] and isfinite(value[1] - value[0])):
            raise ValueError(f"expected [low, high] with low below high, got {list(value)}")
        return value

    @property
    def name(self) -> str:
        """Name of the source; for images passed in from Python, what they were built from."""
        return (isinstance(self.source, Given) and self.source.label) or kind(self.source)

    @checked
    def load(self, root: Path | str) -> Splits:
        """Load the dataset under the data root. Raises InputError if it is missing, damaged or unsuitable."""
        with listening() as said:
            return self._load(Path(root), said)

    def _load(self, root: Path, said: list[str]) -> Splits:
        if not (self.path or "").strip() and (self.source.yours or self.path is not None):
            raise InputError(f"data.path is {'missing' if self.path is None else 'empty'}; give the folder or file of your "
                             "images, as in data.path=photos")
        if self.path is not None and self.source.bundled:
            raise InputError(f"data.path is {self.path!r}, but {self.name} comes with a library and is read from there; "
                             "leave it out, or name another data.source")
        if self.channels == 2:
            raise InputError("data.channels: expected 1 or 3, got 2")
        arrays = check_types(self._read(root), self.name)
        arrays = check_arrays(in_bytes(arrays, self.name, self.range), self.name, self.size, self.channels)
        apart = self._apart(arrays)
        train, test = self._of_classes(apart.train), self._of_classes(apart.test)
        if self.keep is not None:
            train = train.subset(self._read_keep(root / self.keep, len(train)))
            _check_no_class_lost(train, f"data.keep {self.keep}")
        held, rest = hold_out(train, self.validation, RNG("data", "validation"), "data.validation")
        validation = self._validation(apart.validation, train, held)
        train = train.subset(rest) if len(held) else train
        mean, std = _statistics(arrays, train)  # of the remaining training images only
        if validation is not None:
            validation = replace(validation, mean=mean, std=std)
        say_classes(self.name, train, test)
        named = (("training", train), ("validation", validation), ("test", test))
        made = (("test", arrays.test is None), ("validation", len(held) > 0))
        loading = {"images": {name: images.counts for name, images in named if images is not None},
                   "held_out": [name for name, by_us in made if by_us], "said": said}
        train = replace(train, mean=mean, std=std, origin=self, loading=loading)
        splits = Splits(train, validation, replace(test, mean=mean, std=std))
        return self._whiten(splits, root) if self.zca else splits

    def _validation(self, own: Images | None, train: Images, held: torch.Tensor) -> Images | None:
        """The training images that are held out; without any, the source's own validation images."""
        if not len(held):
            return None if own is None else self._of_classes(own)
        if own is not None:
            say(self.name, f"its own {counted(len(own), 'validation image')} are left out, since data.validation="
                           f"{self.validation:g} holds out training images")
        return train.subset(held)

    def _of_classes(self, images: Images) -> Images:
        """The images of the requested classes; labels follow the requested order."""
        if not self.classes:
            return images
        chosen = [self._class(name, images.classes) for name in self.classes]
        if len(set(chosen)) < max(2, len(chosen)):
            raise InputError(f"data.classes: expected at least two different classes, got {', '.join(self.classes)}")
        number = torch.full((len(images.classes),), -1)
        number[chosen] = torch.arange(len(chosen))
        part = images.subset(torch.nonzero(number[images.targets] >= 0).squeeze(1))
        return replace(part, targets=number[part.targets], classes=tuple(images.classes[label] for label in chosen))

    def _class(self, name: str, known: tuple[str, ...]) -> int:
        """The label of a class by its name, or by its number if no class has that name."""
        if name in known:
            return known.index(name)
        if name.isdecimal() and int(name) < len(known):
            return int(name)
        raise InputError(f"data.classes: {self.name} has no class {name!r}{nearest(name, known)}")

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
            return self._read_at(place)
        here = Path.cwd() / path
        if here.exists():
            return self._read_at(here)
        try:
            return self._read_at(place)  # may download it
        except InputError as error:
            if here == place.absolute():
                raise
            raise InputError(f"{error}; {here} does not exist either") from None

    def _read_at(self, place: Path) -> Arrays:
        read: Callable[..., Arrays] = self.source.read
        return read(place, self.size, self.channels, *([self.fit, self.range] if self.source.fits else []))

    def _apart(self, arrays: Arrays) -> Splits:
        """The splits of the source; if it has no test split, a part of the training images is held out."""
        train, names = self._images(arrays, arrays.train), arrays.names
        train = train if arrays.groups is None else replace(train, groups=torch.from_numpy(arrays.groups))
        validation = None if arrays.validation is None else self._images(arrays, arrays.validation)
        if arrays.test is not None:
            test = self._images(arrays, arrays.test)
        else:
            held, rest = hold_out(train, self.test, RNG("data", "test"), "data.test")
            train, test = train.subset(rest), train.subset(held)
            names = [[names[0][row] for row in rows] for rows in (rest, held)] if names else ()
        if not self.source.download:  # the published sets are what they are
            others = {"test": test} if validation is None else {"test": test, "validation": validation}
            say_repeated(self.name, train, others, names)
        return Splits(train, validation, test)

    def _images(self, arrays: Arrays, pair: Pair) -> Images:
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
            try:
                pixels = torch.cat([square(part, self.size, self.fit) for part in pixels.split(1024)])
            except ValueError as error:
                raise InputError(f"{self.name}: {error}") from None
        return Images(pixels, labels, arrays.classes, (), (), mapped=arrays.mapped)

    def _read_keep(self, path: Path, count: int) -> torch.Tensor:
        try:
            with warnings.catch_warnings(action="ignore"):  # an empty file is reported below
                rows = read_npy(path) if path.suffix == ".npy" else np.loadtxt(path, dtype=np.int64, ndmin=1)
        except (OSError, ValueError, InputError) as error:
            raise InputError(f"data.keep: {path} is not a list of indices: {error}") from None
        if rows.dtype.kind not in "iu" or rows.ndim != 1 or not len(rows):
            wrong = shown(rows)
        elif rows.min() < 0 or rows.max() >= count:
            wrong = f"{rows.min()} to {rows.max()}"
        else:
            values, times = np.unique(rows, return_counts=True)
            wrong = f"{values[times.argmax()]} twice" if times.max() > 1 else ""
        if wrong:
            raise InputError(f"data.keep: {path}: expected at least one index, from 0 to {count - 1}, none of them twice, "
                             f"got {wrong}")
        return torch.from_numpy(rows.astype(np.int64))


def hold_out(images: Images, share: float, rng: RNG, setting: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the images of a split (held out, rest), as ``stratified`` gives them. Raises InputError."""
    groups = None if images.groups is None else images.groups.cpu().numpy()
    held, rest = stratified(images.targets.cpu().numpy(), share, rng, images.classes, setting, groups)
    return torch.from_numpy(held), torch.from_numpy(rest)


def stratified(targets: np.ndarray, share: float, rng: RNG, classes: tuple[str, ...] = (), setting: str = "share",
               groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into (held out, rest), ascending; ``share`` of each class is held out, at least one if share > 0. With
    ``groups`` (N,), whole groups are, of as many images or somewhat fewer.

    Raises InputError if that would leave no images of a class (named by ``classes`` if given; the
    share by ``setting``).
    """
    held = np.zeros(len(targets), dtype=bool)
    labels = np.unique(targets) if share else ()
    of_class = {label: np.flatnonzero(targets == label) for label in labels}
    for label, rows in of_class.items():
        order, count = rng(int(label)).numpy().permutation(rows), max(1, round(share * len(rows)))
        held[order[:count] if groups is None else _whole_groups(order, count, groups, held)] = True
    for label, rows in of_class.items():
        if held[rows].all():
            name = repr(classes[label]) if classes else label
            few = "" if groups is None else f" of {counted(len(np.unique(groups[rows])), 'group')}"
            raise InputError(f"class {name} has {counted(len(rows), 'image')}{few}, too few to hold some out with "
                             f"{setting}={share:g}; add images, lower {setting}, or leave the class out")
    return np.flatnonzero(held), np.flatnonzero(~held)


def _whole_groups(order: np.ndarray, count: int, groups: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Which images are of groups that are held out for a class, so that at most ``count`` of its images are; of a single
    group, the smallest, if none is that small. order: the images of the class in random order; held: which already are."""
    sizes = Counter(groups[order[~held[order]]].tolist())  # in random order
    left, chosen = count - int(held[order].sum()), list[int]()
    for group, size in sizes.items():
        if size <= left:
            chosen.append(group)
            left -= size
    if not chosen and not held[order].any():
        chosen = [min(sizes, key=lambda group: sizes[group])]
    return np.isin(groups, chosen)


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
