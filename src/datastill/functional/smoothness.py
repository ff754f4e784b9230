"""Smoothness of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def total_variation(x: Tensor) -> Tensor:
    """Anisotropic total variation (Rudin, Osher & Fatemi 1992) per pixel and image; x (B, C, H, W), non-negative scalar.

    Mean over images of the mean absolute difference of neighboring pixels, vertical plus horizontal.

    >>> import torch
    >>> total_variation(torch.arange(4.0).view(1, 1, 2, 2))
    tensor(3.)
    """
    return x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean()
