"""Random resized crops, flips and shifts with explicit parameters: whatever is drawn can be stored and applied again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from datastill.late import torch
from datastill.rng import RNG

if TYPE_CHECKING:
    from torch import Tensor

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of the image, width to height: those of Szegedy et al. 2015 and torchvision
TRIES = 10


def draw_boxes(rng: RNG, count: int, size: tuple[int, int], area: tuple[float, float] = AREA,
               ratio: tuple[float, float] = RATIO) -> Tensor:
    """Random boxes (count, 4) in images of ``size`` (H, W), in pixels: top, left, height, width; int64.

    As torchvision's RandomResizedCrop: the area is a uniform share of the image, the logarithm of width / height uniform; of
    ten tries the first that fits, then the largest box in the middle whose ratio is allowed.
    """
    height, width = size
    share, shape = rng("area").uniform(TRIES, count), rng("ratio").uniform(TRIES, count)
    pixels = height * width * (area[0] + (area[1] - area[0]) * share.double())
    ratios = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * shape.double())
    wide, high = (pixels * ratios).sqrt().round().long(), (pixels / ratios).sqrt().round().long()
    fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
    first = fits.long().argmax(0)  # the first that fits, or 0
    rows = torch.arange(count)
    middle_wide = min(width, round(height * ratio[1]))
    middle_high = min(height, round(width / ratio[0]))
    found = fits.any(0)
    wide = torch.where(found, wide[first, rows], middle_wide)
    high = torch.where(found, high[first, rows], middle_high)
    place = rng("place").uniform(2, count).double()
    top = torch.where(found, (place[0] * (height - high + 1)).long(), (height - high) // 2)
    left = torch.where(found, (place[1] * (width - wide + 1)).long(), (width - wide) // 2)
    return torch.stack([top, left, high, wide], 1)


def crop(x: Tensor, boxes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """The boxes (B, 4) of images (B, C, H, W), one each or one for all (1, 4), resized to ``size``, by default that of the
    images: (B, C, h, w), bilinear, antialiased, differentiable in x.

    As torch.nn.functional.interpolate reads an image that is cut out first: pixels outside the box have no influence.
    """
    height, width = size or (x.shape[2], x.shape[3])
    top, left, high, wide = boxes.cpu().unbind(1)
    rows = _reading(top, high, height, x.shape[2], x)
    columns = _reading(left, wide, width, x.shape[3], x)
    return rows[:, None] @ x @ columns[:, None].mT


def _reading(first: Tensor, length: Tensor, wanted: int, there: int, like: Tensor) -> Tensor:
    """Matrices (B, wanted, there) that read ``wanted`` values, evenly, from the ``length`` of ``there`` values that begin at
    ``first``: each is a mean of those nearby, with weights that fall linearly over as many values as one stands for."""
    first, length = first[:, None, None], length[:, None, None]
    scale = length.double() / wanted
    center = first + (torch.arange(wanted) + 0.5)[:, None] * scale
    place = torch.arange(there)
    weight = (1 - (place + 0.5 - center).abs() / scale.clamp(min=1)).clamp(min=0)
    weight = weight * ((place >= first) & (place < first + length))
    return (weight / weight.sum(2, keepdim=True)).to(like)


def flip(x: Tensor, mirrored: Tensor) -> Tensor:
    """Images (B, C, H, W), those where ``mirrored`` (B,) is true from left to right; one value (1,) is for all."""
    if len(mirrored) == 1:
        return x.flip(3) if bool(mirrored) else x
    return torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(3), x)


def draw_flips(rng: RNG, count: int) -> Tensor:
    """Whether each of ``count`` images is mirrored, (count,), with probability 1/2."""
    return rng.uniform(count) < 0.5
