"""Selecting real examples by their features, one class at a time. Ties go to the lowest index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datastill.late import torch

if TYPE_CHECKING:
    from torch import Tensor


from datastill.compute import double


def herding(features: Tensor, count: int) -> Tensor:
    """Indices (count,) of the examples whose running mean stays closest to the mean of ``features`` (N, D), in order.

    Each pick minimizes the distance between k + 1 times the mean and the sum of the k chosen features and its own (Welling
    2009; the distance form, which differs from the inner-product form if feature norms differ).
    """
    features = double(features)
    mean, total = features.mean(0), torch.zeros_like(features[0])
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen = []
    for k in range(count):
        distance = ((k + 1) * mean - total - features).norm(dim=1).masked_fill(~free, torch.inf)
        chosen.append(int(distance.argmin()))
        free[chosen[-1]] = False
        total = total + features[chosen[-1]]
    return torch.tensor(chosen)


def k_center(features: Tensor, count: int) -> Tensor:
    """Indices (count,) of examples that cover ``features`` (N, D), in order.

    The first is nearest to the mean; each following one is farthest from those already chosen (the greedy 2-approximation of
    Gonzalez 1985; Sener & Savarese 2018).
    """
    features = double(features)
    chosen = [int((features - features.mean(0)).norm(dim=1).argmin())]
    nearest = (features - features[chosen[0]]).norm(dim=1)
    for _ in range(count - 1):
        nearest[chosen[-1]] = -1.0  # never chosen twice, even among equal examples
        chosen.append(int(nearest.argmax()))
        distance = (features - features[chosen[-1]]).norm(dim=1)
        nearest = torch.where(nearest < 0, nearest, torch.minimum(nearest, distance))
    return torch.tensor(chosen)
