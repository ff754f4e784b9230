"""The augmentation of DC's students: each image of a batch goes through one operation, drawn for it alone.

Zhao et al. 2021 (ICLR, "Dataset Condensation with Gradient Matching") evaluate MNIST with ``dc_crop_scale_rotate``, and
networks with batch normalization with ``dc_crop_noise``; so do the published numbers of random real images, herding and
k-center beside theirs. It is not differentiable: for students only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import AfterValidator

from datastill.functional import augment as dsa
from datastill.late import F, no_grad, torch
from datastill.rng import RNG

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "dc_"
CROP = 4  # pixels added on each side before the window is drawn
SCALE = 0.2  # sides are scaled by factors in [0.8, 1.2]
ROTATE = 45  # degrees
NOISE = 0.001  # standard deviation


@no_grad
def augment_dc(x: Tensor, rng: RNG, strategy: str = "dc_crop_scale_rotate") -> Tensor:
    """A new batch (B, C, H, W) in which each image of ``x`` went through one operation of the strategy.

    Crops and rotations are filled with the mean of the batch, scaling with zeros. Raises ValueError for an unknown strategy.

    >>> augment_dc(torch.ones(2, 1, 8, 8), RNG(0), "dc_crop").shape
    torch.Size([2, 1, 8, 8])
    """
    names, draws = split_strategy(strategy), rng.numpy()
    fill = x.mean((0, 2, 3))
    return torch.stack([OPERATIONS[names[draws.integers(len(names))]](image, fill, draws) for image in x])


def split_strategy(strategy: str) -> list[str]:
    """``"dc_crop_scale"`` -> ``["crop", "scale"]``. Raises ValueError for an unknown operation or none."""
    names = strategy.removeprefix(PREFIX).split("_")
    if unknown := [name for name in names if name not in OPERATIONS]:
        raise ValueError(f"unknown augmentation {unknown[0]!r} in {strategy!r}; expected {PREFIX} and one or more of "
                         f"{', '.join(OPERATIONS)} joined by _")
    return names


def is_dc(strategy: str) -> bool:
    """Whether a strategy is one of DC's, and not of DSA's."""
    return strategy.startswith(PREFIX)


def _known(strategy: str) -> str:
    if is_dc(strategy):
        split_strategy(strategy)
    elif strategy != "none":
        dsa.split_strategy(strategy)
    return strategy


StudentStrategy = Annotated[str, AfterValidator(_known)]  # of DSA, of DC, or "none"; checked when it is read


# --- the operations: image (C, H, W), fill (C,), generator -> (C, H, W) -----------------------------------------------


def crop(image: Tensor, fill: Tensor, draws: np.random.Generator) -> Tensor:
    """A window into the image framed by the fill. As in the original code, the last offset, 2 x 4, is never drawn."""
    _, height, width = image.shape
    framed = fill[:, None, None].repeat(1, height + 2 * CROP, width + 2 * CROP)
    framed[:, CROP:-CROP, CROP:-CROP] = image
    top, left = draws.integers(2 * CROP, size=2)
    return framed[:, top:top + height, left:left + width]


def scale(image: Tensor, fill: Tensor, draws: np.random.Generator) -> Tensor:
    """The image with each side stretched on its own (nearest pixels), centered; zeros around it, or its borders cut off."""
    size = [max(1, int(factor * side)) for factor, side in
            zip(draws.uniform(1 - SCALE, 1 + SCALE, 2), image.shape[1:], strict=True)]
    return _centered(F.interpolate(image[None], size)[0], image.shape[1:])


def rotate(image: Tensor, fill: Tensor, draws: np.random.Generator) -> Tensor:
    """The image turned by a whole number of degrees (cubic splines), filled with the mean over all channels, cut to size."""
    from scipy.ndimage import rotate as turned

    angle, value = int(draws.integers(-ROTATE, ROTATE)), float(fill.mean())
    found = turned(image.cpu().numpy(), angle=angle, axes=(-2, -1), cval=value)
    return _centered(torch.as_tensor(found).to(image), image.shape[1:])


def noise(image: Tensor, fill: Tensor, draws: np.random.Generator) -> Tensor:
    """A little Gaussian noise."""
    return image + NOISE * torch.as_tensor(draws.standard_normal(image.shape)).to(image)


OPERATIONS: dict[str, Callable[[Tensor, Tensor, np.random.Generator], Tensor]] = {
    "crop": crop, "scale": scale, "rotate": rotate, "noise": noise}


def _centered(image: Tensor, size: torch.Size) -> Tensor:
    """The middle of an image, or the image in the middle of zeros, side by side (C, *size)."""
    for axis, (have, want) in enumerate(zip(image.shape[1:], size, strict=True), start=1):
        if have >= want:
            image = image.narrow(axis, (have - want) // 2, want)
        else:
            before = (want - have) // 2
            pad = [before, want - have - before]
            image = F.pad(image, pad if axis == 2 else [0, 0, *pad])
    return image
