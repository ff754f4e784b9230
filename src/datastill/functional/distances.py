"""Distances between real and synthetic data, minimized by the matching methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from datastill.late import torch

if TYPE_CHECKING:
    from torch import Tensor

GradientMetric = Literal["layerwise", "mse", "cosine"]
EPSILON = 1e-6  # added to the product of norms: a row of zeros has distance 1 and no gradient


def class_means(features: Tensor, y: Tensor) -> Tensor:
    """Mean feature of each class, (K, D), from features (B, D) and label probabilities (B, K).

    With soft labels, a sample is weighted in each class by its probability. A class without samples gives NaN.

    >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    tensor([[2.],
            [5.]])
    """
    return (y.T @ features) / y.sum(0)[:, None]


def mean_feature_distance(real: Tensor, synthetic: Tensor) -> Tensor:
    """Sum over classes of the squared distance between class means, both (K, D); scalar.

    Zhao & Bilen 2023 (Dataset Condensation with Distribution Matching), eq. 4 as their code computes it.

    >>> mean_feature_distance(torch.zeros(2, 3), torch.ones(2, 3))
    tensor(6.)
    """
    return (real - synthetic).square().sum()


def dm(features: Tensor, y: Tensor, real: Tensor, real_y: Tensor) -> Tensor:
    """Distribution matching (Zhao & Bilen 2023): ``mean_feature_distance`` of the class means; non-negative scalar.

    features (N, D) of synthetic images with labels y (N, K); real (B, D), real_y (B, K); all probabilities.

    >>> dm(torch.zeros(2, 3), torch.eye(2), torch.ones(2, 3), torch.eye(2))
    tensor(6.)
    """
    return mean_feature_distance(class_means(real, real_y), class_means(features, y))


def attention(maps: Tensor) -> Tensor:
    """Where a feature map (B, C, H, W) is active: sum of absolute values over channels, flattened, at unit norm, (B, H W).

    For a fully connected stage (B, D), the absolute values themselves (ours). Sajedi et al. 2023, eq. 2 with p = 1.

    >>> attention(torch.ones(1, 3, 2, 2))
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    active = maps.abs().sum(1).flatten(1) if maps.dim() == 4 else maps.abs()
    return torch.nn.functional.normalize(active, dim=1)


def gradient_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor], metric: GradientMetric = "layerwise") -> Tensor:
    """Distance between two lists of gradients of the same network, scalar, differentiable in both.

    "layerwise": sum over layers and output rows of 1 - cosine; vectors (biases, norm weights) are ignored
    (Zhao et al. 2021, eq. 8-9). "mse": sum of squared differences. "cosine": 1 - cosine of everything as one vector.

    >>> gradient_distance([torch.eye(2)], [torch.eye(2).flip(0)])
    tensor(2.)
    """
    if metric == "mse":
        return torch.stack([(a - b).square().sum() for a, b in zip(synthetic, real, strict=True)]).sum()
    if metric == "cosine":
        return _row_distance(*(torch.cat([t.flatten() for t in part])[None] for part in (synthetic, real))).sum()
    rows = [_row_distance(a.flatten(1), b.flatten(1)).sum() for a, b in zip(synthetic, real, strict=True) if a.dim() > 1]
    return torch.stack(rows).sum()


def _row_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of each row, (R, D) and (R, D) -> (R,)."""
    return 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + EPSILON)


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of a list of gradients as one vector, scalar; differentiable at 0 too.

    >>> gradient_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
    tensor(5.)
    """
    return (torch.stack([g.square().sum() for g in gradients]).sum() + 1e-12).sqrt()


def trajectory_distance(last: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """Squared distance of weights (P,) to an expert's, relative to how far the expert moved; scalar, 1 if nothing moved.

    |last - target|^2 / |start - target|^2 (Cazenavette et al. 2022, eq. 2).

    >>> trajectory_distance(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([2.0]))
    tensor(0.2500)
    """
    return (last - target).square().sum() / (start - target).square().sum()
