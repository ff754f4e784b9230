"""One split of a dataset, in memory or on disk: uint8 images, normalized when drawn, sampled by class."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from datastill.compute import send
from datastill.data.whitening import Whitening
from datastill.late import torch
from datastill.rng import RNG

if TYPE_CHECKING:
    from torch import Tensor


class Batch(NamedTuple):
    """x: (B, C, H, W) float, normalized. y: (B, K) probabilities; a hard label is a one-hot row."""

    x: Tensor
    y: Tensor


class Lazy(ABC):
    """Pixels that are read when they are drawn, in place of the tensor of ``Images``. ``shape`` is (N, C, H, W)."""

    shape: tuple[int, int, int, int]

    @property
    def device(self) -> torch.device:
        """Where what was read is."""
        return torch.device("cpu")

    @abstractmethod
    def __getitem__(self, indices: Tensor) -> Tensor:
        """The images at these indices (B,), (B, C, H, W) uint8."""

    @abstractmethod
    def identity(self, indices: Tensor) -> bytes:
        """What the fingerprint is taken of in place of these images, so that they need not be read for it."""


@dataclass(frozen=True, eq=False)
class Images:
    """One split: ``pixels`` (N, C, H, W) uint8, ``targets`` (N,) int64, ``classes`` in order, mean and std per channel.

    Pixels may be memory-mapped or ``Lazy``; then they stay on disk and only what is drawn comes to ``device``.
    """

    pixels: Tensor | Lazy
    targets: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mapped: bool = False
    rows: Tensor | None = None  # of a part of a set on disk: which images it has, so that they need not be read
    whitening: Whitening | None = None
    whitened: Tensor | None = None  # the images as they are drawn, (N, C, H, W) float, where they are whitened
    origin: Any = None  # the Data they were loaded by, or the name of what they were made of
    _known: list[str] = field(default_factory=list, init=False, repr=False)  # the fingerprint; shared with moved copies

    @classmethod
    def from_dataset(cls, dataset: Any, *, classes: Sequence[str] = (), mean: Sequence[float] = (),
                     std: Sequence[float] = (), like: Images | None = None) -> Images:
        """Any map-style dataset of (image, label), torchvision's for example, read into memory.

        An image is a PIL image, an array (H, W) or (H, W, C) uint8, or a tensor (C, H, W), uint8 or float in [0, 1] (as
        ``ToTensor`` gives; normalized ones are refused, this library normalizes itself). Labels are whole numbers.
        classes: names in order; unless given, ``dataset.classes``, else the numbers. mean, std: per channel, of pixels in
        [0, 1]; unless given, those of these images. like: the training images, whose classes, mean and std are taken.

        Raises InputError: an item that is no such pair, images of several sizes, fewer than two classes.

        >>> from torch.utils.data import TensorDataset
        >>> pairs = TensorDataset(torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2]))
        >>> Images.from_dataset(pairs, classes=["cat", "dog", "owl"]).shape
        (3, 8, 8)
        """
        from datastill.data._memory import read
        return read(dataset, tuple(classes), tuple(mean), tuple(std), like)

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

    def batch(self, rows: Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
        """The images at these rows (B,), normalized and whitened where that was asked for, on the device; the same in every
        epoch."""
        targets = send(self.targets[rows], self.device)
        x = self.normalize(send(self.raw(rows), self.device)) if self.whitened is None else \
            _plain(self.whitened[send(rows, self.whitened.device)])
        return Batch(x, torch.nn.functional.one_hot(targets, len(self.classes)).to(x.dtype))

    def raw(self, indices: Tensor) -> Tensor:
        """The stored pixels at these indices, (B, C, H, W) uint8, where they are kept; in the plain layout."""
        return _plain(self.pixels[self._places(indices)])

    def _places(self, indices: Tensor) -> Tensor:
        """Where these images are among the pixels."""
        indices = send(indices, self.pixels.device)
        return indices if self.rows is None else self.rows[indices]

    def sample(self, n: int, rng: RNG, of_class: int | None = None) -> Batch:
        """``n`` random images without replacement, of one class if asked; all there are where there are fewer."""
        return self.batch(self.draw(n, rng, of_class))

    def draw(self, n: int, rng: RNG, of_class: int | None = None) -> Tensor:
        """Indices of what ``sample`` gives."""
        pool = torch.arange(len(self)) if of_class is None else self.of_class[of_class]
        return pool[rng.permutation(len(pool))[:n]]

    def subset(self, indices: Tensor) -> Images:
        """The split reduced to these indices, in this order; of one on disk nothing is read."""
        whitened = None if self.whitened is None else self.whitened[indices.to(self.whitened.device)]
        part = replace(self, targets=self.targets[indices], whitened=whitened, origin=None)
        if self.mapped or isinstance(self.pixels, Lazy):
            return replace(part, rows=self._places(indices))
        return replace(part, pixels=self.pixels[indices])

    def to(self, device: torch.device) -> Images:
        """The same split, its fingerprint too, drawn on another device; pixels move there unless they are on disk."""
        pixels = self.pixels if self.mapped or isinstance(self.pixels, Lazy) else self.pixels.to(device)
        moved = replace(self, pixels=pixels, device=device,
                        whitened=None if self.whitened is None else self.whitened.to(device),
                        whitening=None if self.whitening is None else self.whitening.to(device))
        object.__setattr__(moved, "_known", self._known)
        return moved

    def whiten(self, whitening: Whitening) -> Images:
        """The split whitened, once and for all its draws; the stored pixels stay what they are."""
        parts = [whitening.whiten(self.normalize(self.raw(rows))) for rows in torch.arange(len(self)).split(4096)]
        return replace(self, whitening=whitening, whitened=torch.cat(parts) if parts else torch.zeros(0, *self.shape))

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 with the mean and std of the dataset; in the plain layout."""
        return _plain((pixels.float() / 255 - channels(self.mean, pixels)) / channels(self.std, pixels))

    @property
    def fingerprint(self) -> str:
        """12 hex digits of the content: pixels (or what a ``Lazy`` has for them), targets, class names, in order, and
        the mean and std they are drawn with, and the whitening."""
        if not self._known:
            self._known.append(self._hashed())
        _alive[self] = None
        return self._known[0]

    def _hashed(self) -> str:
        sha = hashlib.sha256(repr((self.classes, (len(self), *self.shape), self.mean, self.std)).encode())
        if self.whitening is not None:
            sha.update(self.whitening.identity.encode())
        sha.update(self.targets.cpu().numpy().tobytes())
        for rows in torch.arange(len(self)).split(4096):
            sha.update(self.pixels.identity(self._places(rows)) if isinstance(self.pixels, Lazy) else
                       np.ascontiguousarray(self.raw(rows).cpu().numpy()).data)
        return sha.hexdigest()[:12]


_alive: WeakKeyDictionary[Images, None] = WeakKeyDictionary()  # those whose content was asked for


def at_hand(fingerprint: str) -> Images | None:
    """Images of this content that are alive in this process, so that they need not be handed over a second time."""
    found = [images for images in _alive if images._known == [fingerprint]]
    return found[-1] if found else None


def mean_and_std(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of all pixels in [0, 1], to four digits."""
    parts = torch.arange(len(images)).split(1024)
    count = len(images) * images.shape[1] * images.shape[2]

    def total(of: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([of(images.raw(rows).double() / 255).sum((0, 2, 3)) for rows in parts]).sum(0) / count

    mean = total(lambda x: x)
    std = total(lambda x: (x - mean.view(1, -1, 1, 1)).square()).sqrt().clamp_min(1e-3)  # one flat color stays finite
    return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())


def _plain(x: Tensor) -> Tensor:
    """The same values with the strides of a new tensor, copied only where they lie in another order.

    A convolution chooses its code, and so its rounding, by strides; ``contiguous()`` leaves those of a size of 1.
    """
    return x.reshape(-1).view(x.shape)


def channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    """A value for each channel, (1, C, 1, 1)."""
    return torch.tensor(values, device=like.device).view(1, -1, 1, 1)


def denormalize(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...], whitening: Whitening | None = None) -> Tensor:
    """Normalized (and whitened) images (B, C, H, W) -> [0, 1], clamped, for viewing and export."""
    x = x if whitening is None else whitening.undo(x)
    return (x * channels(std, x) + channels(mean, x)).clamp(0, 1)
