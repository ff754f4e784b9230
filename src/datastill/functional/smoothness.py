"""Smoothness of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datastill.functional.distances import check_images

if TYPE_CHECKING:
    from torch import Tensor


def total_variation(x: Tensor) -> Tensor:
    """Anisotropic total variation (Rudin, Osher & Fatemi 1992) per pixel and image; x (B, C, H, W), non-negative scalar.

    Mean over images of the mean absolute difference of neighboring pixels, vertical plus horizontal; 0 along a side of one
    pixel.

    >>> import torch
    >>> total_variation(torch.arange(4.0).view(1, 1, 2, 2))
    tensor(3.)
    """
    check_images(x, "total_variation")
    return sum((x.diff(dim=dim).abs().mean() for dim in (2, 3) if x.shape[dim] > 1), start=0.0 * x.sum())
