"""CutMix and Mixup with explicit parameters: images of a batch mixed with others of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from datastill.late import torch
from datastill.rng import RNG

if TYPE_CHECKING:
    from torch import Tensor


class Mix(NamedTuple):
    """How a batch is mixed. order: (B,) int64, the image each one is mixed with. share: of an image that stays. box: top,
    left, bottom, right in pixels of what is exchanged; None: all pixels are mixed (Mixup)."""

    order: Tensor
    share: float
    box: tuple[int, int, int, int] | None


def draw_cutmix(rng: RNG, count: int, size: tuple[int, int], beta: float = 1.0) -> Mix:
    """A box for images of ``size`` (H, W) (Yun et al. 2019): its area is a share 1 - Beta(beta, beta), its center uniform,
    what is outside the image is cut off; ``share`` is what then stays."""
    height, width = size
    kept = float(rng("share").numpy().beta(beta, beta))
    high, wide = (int(side * math.sqrt(1 - kept)) for side in size)
    row, column = (int(value) for value in rng("center").uniform(2) * torch.tensor([height, width]))
    top, bottom = max(0, row - high // 2), min(height, row + high // 2)
    left, right = max(0, column - wide // 2), min(width, column + wide // 2)
    return Mix(rng("order").permutation(count), 1 - (bottom - top) * (right - left) / (height * width),
               (top, left, bottom, right))


def draw_mixup(rng: RNG, count: int, beta: float = 0.8) -> Mix:
    """A share Beta(beta, beta) of every image for the batch (Zhang et al. 2018)."""
    return Mix(rng("order").permutation(count), float(rng("share").numpy().beta(beta, beta)), None)


def mixed(x: Tensor, mix: Mix) -> Tensor:
    """The images (B, C, H, W) of a batch, mixed."""
    others = x[mix.order.to(x.device)]
    if mix.box is None:
        return mix.share * x + (1 - mix.share) * others
    top, left, bottom, right = mix.box
    inside = torch.zeros(x.shape[2:], dtype=torch.bool, device=x.device)
    inside[top:bottom, left:right] = True
    return torch.where(inside, others, x)


def mixed_labels(y: Tensor, mix: Mix) -> Tensor:
    """The labels (B, K), probabilities, of a mixed batch."""
    return mix.share * y + (1 - mix.share) * y[mix.order.to(y.device)]
