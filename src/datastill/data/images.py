"""One split of a dataset, in memory or on disk: uint8 images, normalized when sampled, sampled by class."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from datastill.compute import send
from datastill.data.whitening import Whitening
from datastill.errors import InputError
from datastill.functional.crops import AREA, RATIO, crop, draw_boxes
from datastill.late import torch
from datastill.rng import RNG
from datastill.tables import counted, shown

if TYPE_CHECKING:
    from torch import Tensor


class Batch(NamedTuple):
    """x: (B, C, H, W) float, normalized. y: (B, K) probabilities; a hard label is a one-hot row."""

    x: Tensor
    y: Tensor


class Lazy(ABC):
    """Pixels that are read on access, used in place of the tensor in ``Images``. ``shape`` is (N, C, H, W)."""

    shape: tuple[int, int, int, int]

    @property
    def device(self) -> torch.device:
        """The device of the images that are read."""
        return torch.device("cpu")

    @abstractmethod
    def __getitem__(self, indices: Tensor) -> Tensor:
        """The images at these indices (B,), (B, C, H, W) uint8."""

    def originals(self, indices: Tensor, change: Callable[[int, Any], Any]) -> list[Any] | None:
        """``change(number, picture)`` of the images at these indices as pictures of Pillow in the size in which they are
        stored, converted to gray or RGB; None if there is nothing else than what is read. ``change`` may be called in
        several threads."""
        return None

    @abstractmethod
    def identity(self, indices: Tensor) -> bytes:
        """What the fingerprint hashes instead of these images, so that they need not be read."""


@dataclass(frozen=True, eq=False)
class Images:
    """One split: ``pixels`` (N, C, H, W) uint8, ``targets`` (N,) int64, ``classes`` in order, mean and std per channel of
    pixels in [0, 1] (empty until they are measured).

    Pixels may be memory-mapped or ``Lazy``; then they stay on disk and only sampled images are moved to ``device``.

    Raises InputError if these do not fit together.
    """

    pixels: Tensor | Lazy
    targets: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mapped: bool = False
    rows: Tensor | None = None  # for a subset of a dataset on disk: the indices of its images, so that they need not be read
    whitening: Whitening | None = None
    whitened: Tensor | None = None  # the whitened images, (N, C, H, W) float, if whitening is used
    origin: Any = None  # the Data that loaded them, or the name of what they were created from
    loading: Mapping[str, Any] = field(default_factory=dict)  # what the card says of how they were loaded (``Data.load``)
    groups: Tensor | None = None  # numbers (N,): images of one group (a patient, say) stay on one side of every split
    _known: list[str] = field(default_factory=list, init=False, repr=False)  # the fingerprint; shared with moved copies

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, Lazy) and not (
                isinstance(self.pixels, torch.Tensor) and self.pixels.dtype == torch.uint8 and self.pixels.dim() == 4):
            raise InputError(f"Images: expected pixels (N, C, H, W) uint8, got {shown(self.pixels)}")
        if not (isinstance(self.targets, torch.Tensor) and self.targets.dtype == torch.int64 and self.targets.dim() == 1):
            raise InputError(f"Images: expected targets (N,) int64, got {shown(self.targets)}")
        object.__setattr__(self, "classes", class_names(self.classes))
        for what in ("mean", "std"):
            object.__setattr__(self, what, numbers(getattr(self, what), f"Images: expected {what} per channel"))
        self._check()

    def _check(self) -> None:
        """Raises InputError if the parts do not fit together."""
        count, depth = self.pixels.shape[0] if self.rows is None else len(self.rows), self.pixels.shape[1]
        if count not in (1, len(self.targets)):  # one may stand in for images that are never looked at
            raise InputError(f"Images: {counted(count, 'image')} but {counted(len(self.targets), 'target')}")
        if len(self.targets) and not self.targets.is_meta:
            low, high = (int(end) for end in torch.aminmax(self.targets))
            if low < 0 or high >= len(self.classes):
                raise InputError(f"Images: targets range from {low} to {high}; expected 0 to {len(self.classes) - 1} for "
                                 f"{counted(len(self.classes), 'class')}")
        if (self.mean or self.std) and not (len(self.mean) == len(self.std) == depth and all(
                0 <= m <= 1 and 0 < s <= 1 for m, s in zip(self.mean, self.std, strict=True))):
            raise InputError(f"Images: expected a mean and a positive std for each channel ({depth}), of pixels from 0 "
                             f"to 1, got mean {self.mean} and std {self.std}")

    @classmethod
    def from_dataset(cls, dataset: Any, *, classes: Sequence[str] | None = None, mean: Sequence[float] | None = None,
                     std: Sequence[float] | None = None, like: Images | None = None,
                     range: tuple[float, float] | None = None, size: int | None = None, lazy: bool = False) -> Images:
        """Read any map-style dataset of (image, label) into memory, for example one of torchvision's, a TensorDataset or one
        of Hugging Face's; or (images, labels), two arrays or two tensors. ``Images`` are returned as they are,
        with mean and std measured if they have none.

        An image is a PIL image, an array (H, W) or (H, W, C), or a tensor (C, H, W), uint8 or float in [0, 1] (as from
        ``ToTensor``; normalized images are rejected because this library normalizes them itself). Labels are integers.
        classes: names in order; default: ``dataset.classes``, else the label numbers; a part of a dataset (``Subset``) has
        those classes of the whole that occur. mean, std: per channel, of pixels in [0, 1]; default: measured on these
        images. like: the training images, whose classes, mean and std are used. range: the values that become 0 and 255, for
        images that are not 8 bits; values outside are rejected. size: the side to which images are resized, their
        middle cut out, as ``data.size`` does. lazy: leave the images in the dataset, which is read once to check and
        identify them, once more to measure mean and std unless they are given, and then whenever images are drawn; its
        items must stay the same.

        Raises InputError for an item that is not such a pair, images of several sizes, or fewer than two classes.

        >>> from torch.utils.data import TensorDataset
        >>> pairs = TensorDataset(torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2]))
        >>> Images.from_dataset(pairs, classes=["cat", "dog", "owl"]).shape
        (3, 8, 8)
        """
        if isinstance(dataset, Images) and all(one is None for one in (classes, mean, std, like, range, size)):
            return dataset if dataset.mean else measured(dataset)
        from datastill.data._memory import read
        return read(dataset, classes, mean, std, like, range, size, lazy)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @cached_property
    def of_class(self) -> tuple[Tensor, ...]:
        """Indices of each class, ascending."""
        order = torch.argsort(self.targets, stable=True)
        return tuple(torch.split(order, torch.bincount(self.targets, minlength=len(self.classes)).tolist()))

    @property
    def counts(self) -> list[int]:
        """The number of images of each class."""
        return [len(rows) for rows in self.of_class]

    @property
    def slow(self) -> bool:
        """Whether images are read from disk when they are drawn."""
        return self.mapped or isinstance(self.pixels, Lazy)

    def batch(self, rows: Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
        """The images at these rows (B,) on the device, normalized, and whitened if whitening is used; the same in every
        epoch."""
        x = self.normalize(send(self.raw(rows), self.device)) if self.whitened is None else \
            _plain(self.whitened[send(rows, self.whitened.device)])
        return Batch(x, self.labels(rows))

    def labels(self, rows: Tensor) -> Tensor:
        """The labels (B, K) of the images at these rows, one-hot, on the device."""
        targets = send(self.targets[rows], self.device)
        return torch.nn.functional.one_hot(targets, len(self.classes)).float()

    @property
    def have_originals(self) -> bool:
        """Whether crops are cut from files of their own."""
        return self.whitened is None and self.originals(torch.arange(0), lambda number, picture: picture) is not None

    def crops(self, rows: Tensor, rng: RNG, area: tuple[float, float] = AREA, ratio: tuple[float, float] = RATIO,
              size: tuple[int, int] | None = None) -> Tensor:
        """A random crop of each of the images at these rows, (B, C, H, W), as torchvision's RandomResizedCrop: a box of a
        uniform share of the ``area`` and of this ``ratio`` of width to height, resized to ``size``, by default (H, W).
        Images that are read from files of their own are cut before they are made smaller (in 8 bits, as usual), so that a
        crop of a large photograph is sharp."""
        size = size or (self.shape[1], self.shape[2])

        def cut(number: int, picture: Any) -> Any:
            from torchvision.transforms import functional

            box = draw_boxes(rng("original", number), 1, (picture.height, picture.width), area, ratio)[0]
            return functional.resized_crop(picture, *box.tolist(), list(size))

        found = self.originals(rows, cut) if self.whitened is None else None
        if found is None:
            return crop(self.batch(rows).x, draw_boxes(rng, len(rows), self.shape[1:], area, ratio), size)
        arrays = np.stack([np.atleast_3d(np.asarray(one)) for one in found])
        return self.normalize(send(torch.from_numpy(arrays).permute(0, 3, 1, 2), self.device))

    def originals(self, rows: Tensor, change: Callable[[int, Any], Any]) -> list[Any] | None:
        """See ``Lazy.originals``; None for images in memory."""
        return self.pixels.originals(self._places(rows), change) if isinstance(self.pixels, Lazy) else None

    def raw(self, indices: Tensor) -> Tensor:
        """The stored pixels at these indices, (B, C, H, W) uint8, on the device that holds them, in contiguous layout."""
        return _plain(self.pixels[self._places(indices)])

    def _places(self, indices: Tensor) -> Tensor:
        """Positions of these images in ``pixels``."""
        indices = send(indices, self.pixels.device)
        return indices if self.rows is None else self.rows[indices]

    def sample(self, n: int, rng: RNG, of_class: int | None = None) -> Batch:
        """``n`` random images without replacement, from one class if given; all images if there are fewer than ``n``."""
        return self.batch(self.draw(n, rng, of_class))

    def draw(self, n: int, rng: RNG, of_class: int | None = None) -> Tensor:
        """Indices of the images that ``sample`` returns."""
        pool = torch.arange(len(self)) if of_class is None else self.of_class[of_class]
        return pool[rng.permutation(len(pool))[:n]]

    @cached_property
    def hashes(self) -> tuple[bytes, ...]:
        """A hash of the pixels of each image, in order; every kind of student is checked against them."""
        parts = (self.raw(rows).cpu().numpy() for rows in torch.arange(len(self)).split(1024))
        return tuple(hashlib.blake2b(one.data, digest_size=16).digest() for part in parts for one in part)

    def subset(self, indices: Tensor) -> Images:
        """The split reduced to these indices, in this order; nothing is read if it is on disk."""
        whitened = None if self.whitened is None else self.whitened[indices.to(self.whitened.device)]
        on_disk = self.mapped or isinstance(self.pixels, Lazy)
        return replace(self, pixels=self.pixels if on_disk else self.pixels[indices], targets=self.targets[indices],
                       rows=self._places(indices) if on_disk else None, whitened=whitened, origin=None, loading={},
                       groups=None if self.groups is None else self.groups[indices])

    def to(self, device: torch.device) -> Images:
        """The same split and fingerprint, sampled on another device; pixels move there unless they are on disk."""
        pixels = self.pixels if self.mapped or isinstance(self.pixels, Lazy) else self.pixels.to(device)
        moved = replace(self, pixels=pixels, device=device,
                        whitened=None if self.whitened is None else self.whitened.to(device),
                        whitening=None if self.whitening is None else self.whitening.to(device))
        object.__setattr__(moved, "_known", self._known)
        return moved

    def whiten(self, whitening: Whitening) -> Images:
        """The split with its images whitened once, in advance; the stored pixels are unchanged."""
        parts = [whitening.whiten(self.normalize(self.raw(rows))) for rows in torch.arange(len(self)).split(4096)]
        return replace(self, whitening=whitening, whitened=torch.cat(parts) if parts else torch.zeros(0, *self.shape))

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32, normalized with the mean and std of the dataset, in contiguous layout."""
        return _plain((pixels.float() / 255 - channels(self.mean, pixels)) / channels(self.std, pixels))

    @property
    def fingerprint(self) -> str:
        """12 hex digits that identify the content: pixels (or the identity of a ``Lazy``), targets, class names in order,
        mean and std, whitening, and groups."""
        if not self._known:
            self._known.append(self._hashed())
        _alive[self] = None
        return self._known[0]

    def _hashed(self) -> str:
        sha = hashlib.sha256(repr((self.classes, (len(self), *self.shape), self.mean, self.std)).encode())
        if self.whitening is not None:
            sha.update(self.whitening.identity.encode())
        sha.update(self.targets.cpu().numpy().tobytes())
        if self.groups is not None:
            sha.update(self.groups.cpu().numpy().tobytes())  # teachers of these images are split by them
        for rows in torch.arange(len(self)).split(4096):
            sha.update(self.pixels.identity(self._places(rows)) if isinstance(self.pixels, Lazy) else
                       np.ascontiguousarray(self.raw(rows).cpu().numpy()).data)
        return sha.hexdigest()[:12]


def class_names(classes: Any) -> tuple[str, ...]:
    """Class names in order. Raises InputError unless they are at least two different texts."""
    if not isinstance(classes, (list, tuple)) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"classes: expected their names in order, such as ('cat', 'dog'), got {str(classes)[:60]!r}")
    if len(classes) < 2:
        raise InputError(f"classes: {counted(len(classes), 'class')} {tuple(classes)}; a classification dataset needs at "
                         "least two")
    if len(set(classes)) < len(classes):
        twice = next(name for number, name in enumerate(classes) if name in classes[:number])
        raise InputError(f"classes: names are not unique: {twice!r} occurs twice")
    return tuple(map(str, classes))


def numbers(values: Any, expected: str) -> tuple[float, ...]:
    """Finite numbers. Raises InputError."""
    try:
        found = tuple(map(float, values))
    except (TypeError, ValueError):
        found = (math.nan,)
    if isinstance(values, str) or not all(map(math.isfinite, found)):
        raise InputError(f"{expected}, finite numbers in a tuple, got {' '.join(str(values).split())[:60]!r}")
    return found


_alive: WeakKeyDictionary[Images, None] = WeakKeyDictionary()  # those whose fingerprint was computed


def at_hand(fingerprint: str) -> Images | None:
    """Images with this fingerprint that are alive in this process, so that they need not be passed in again."""
    found = [images for images in _alive if images._known == [fingerprint]]
    return found[-1] if found else None


def mean_and_std(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of all pixels in [0, 1], to four digits."""
    parts = torch.arange(len(images)).split(1024)
    count = len(images) * images.shape[1] * images.shape[2]

    def total(of: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([of(images.raw(rows).double() / 255).sum((0, 2, 3)) for rows in parts]).sum(0) / count

    mean = total(lambda x: x)
    std = total(lambda x: (x - mean.view(1, -1, 1, 1)).square()).sqrt().clamp_min(1e-3)  # not 0 for flat images
    return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())


def measured(images: Images) -> Images:
    """The images with mean and std as measured on them."""
    mean, std = mean_and_std(images)
    return replace(images, mean=mean, std=std)


def _plain(x: Tensor) -> Tensor:
    """The same values with the strides of a new tensor; copied only if they are stored in another order.

    A convolution picks its kernel, and so its rounding, by strides; ``contiguous()`` keeps the strides of size-1 dimensions.
    """
    return x.reshape(-1).view(x.shape)


def channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    """One value per channel, (1, C, 1, 1), on the device of ``like``."""
    return torch.tensor(values, device=like.device).view(1, -1, 1, 1)


def denormalize(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...], whitening: Whitening | None = None) -> Tensor:
    """Normalized (and whitened) images (B, C, H, W) -> [0, 1], clamped, for viewing and export."""
    x = x if whitening is None else whitening.undo(x)
    return (x * channels(std, x) + channels(mean, x)).clamp(0, 1)
