"""The images a network was trained on (size, channels, normalization, whitening, classes), and converting images between
such domains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from datastill.compute import needs_deterministic
from datastill.data.images import Images, channels
from datastill.data.whitening import Whitening
from datastill.errors import InputError
from datastill.late import torch

if TYPE_CHECKING:
    from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in PIL's conversion to gray


@dataclass(frozen=True, eq=False)
class Domain:
    """The images a network was trained on: shape (C, H, W), mean and std per channel, whitening; its classes in order."""

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    whitening: Whitening | None = None

    def pixels(self, x: Tensor) -> Tensor:
        """Images of this domain (B, C, H, W) as pixels, 0 to 1 for real images; not clamped, differentiable."""
        x = x if self.whitening is None else self.whitening.undo(x)
        return x * channels(self.std, x) + channels(self.mean, x)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W) of this domain's size as images of this domain."""
        x = (pixels - channels(self.mean, pixels)) / channels(self.std, pixels)
        return x if self.whitening is None else self.whitening.whiten(x)

    def to(self, device: torch.device) -> Domain:
        """The same domain with its whitening on a device."""
        return self if self.whitening is None else replace(self, whitening=self.whitening.to(device))

    def looks_like(self, other: Domain) -> bool:
        """Whether images can be passed between the two without conversion."""
        ours, theirs = ("" if d.whitening is None else d.whitening.identity for d in (self, other))
        return (self.shape, self.mean, self.std, ours) == (other.shape, other.mean, other.std, theirs)


def domain_of(images: Images) -> Domain:
    """The domain of networks trained on these images."""
    return Domain(images.shape, images.mean, images.std, images.classes, images.whitening)


def check_channels(here: Domain, there: Domain) -> None:
    """Check that the channels of images can be converted from one domain to another. Raises InputError."""
    ours, theirs = here.shape[0], there.shape[0]
    if ours not in (1, theirs) and (ours, theirs) != (3, 1):
        raise InputError(f"images of {ours} channels cannot be shown to a network for {theirs}; only gray and color are "
                         "converted, choose teachers trained on these images")


def bring(x: Tensor, here: Domain, there: Domain) -> Tensor:
    """Convert images (B, C, H, W) from one domain to another: back to pixels, channels converted, resized (bilinear,
    antialiased), normalized and whitened; differentiable. Images of another size than ``here`` says are resized too.
    Returns the same tensor if nothing has to be done."""
    if here.looks_like(there) and x.shape[2:] == there.shape[1:]:
        return x
    check_channels(here, there)
    pixels = here.pixels(x)
    if pixels.shape[1] != there.shape[0]:
        pixels = pixels.expand(-1, there.shape[0], -1, -1) if pixels.shape[1] == 1 else \
            torch.einsum("bchw,c->bhw", pixels, pixels.new_tensor(LUMA))[:, None]
    if pixels.shape[2:] != there.shape[1:]:
        pixels = _resized(pixels, there.shape[1:])
    return there.normalize(pixels)


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) resized, bilinear, antialiased."""
    if not needs_deterministic(pixels.device):
        return torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    rows, columns = (_resizing(pixels, axis, length) for axis, length in zip((2, 3), size, strict=True))
    return rows @ pixels @ columns.T


def _resizing(pixels: Tensor, axis: int, length: int) -> Tensor:
    """Resizing along an axis as a matrix (new length, old length), obtained by resizing the identity. ``interpolate`` itself
    has no deterministic backward kernel on a GPU."""
    side = pixels.shape[axis]
    identity = torch.eye(side, device=pixels.device, dtype=pixels.dtype)[None, None]
    return torch.nn.functional.interpolate(identity, size=(length, side), mode="bilinear", antialias=True)[0, 0]
