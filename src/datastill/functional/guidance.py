"""What frozen pre-trained models say of synthetic images (CLoM, CCLoM)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def class_distance_share(features: Tensor, y: Tensor, real: Tensor, real_y: Tensor) -> Tensor:
    """Share of all cosine distances that is between images of the same class; scalar in [0, 1], 1/K by chance.

    sum(M * D) / sum(D) with D = 1 - cosine of every synthetic and real feature and M = y real_y' (Lu et al. 2023, CCLoM).
    features (N, D) of synthetic images with labels y (N, K); real (B, D), real_y (B, K).
    """
    directions = F.normalize(real, dim=1)
    return share_of_sums(features, y, real_y.T @ directions, real_y.sum(0))


def share_of_sums(features: Tensor, y: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """The same from what it needs of real images: ``sums`` (K, D) of their directions by class, ``counts`` (K,) of them.

    A distance is linear in the direction of a real feature, so that N x B of them need not be computed.
    """
    directions = F.normalize(features, dim=1)
    same = (y * (counts - directions @ sums.T)).sum()
    return same / (counts.sum() - directions @ sums.sum(0)).sum()


def class_sums(directions: Tensor, targets: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """(sum of directions (B, D) by class, (K, D); how many there are of each, (K,))."""
    sums = torch.zeros(classes, directions.shape[1], dtype=directions.dtype, device=directions.device)
    return sums.index_add_(0, targets, directions), torch.bincount(targets, minlength=classes).to(directions.dtype)
