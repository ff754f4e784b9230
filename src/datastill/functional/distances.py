"""Distances between real and synthetic data that the matching methods minimise."""

from __future__ import annotations

from torch import Tensor


def class_means(features: Tensor, y: Tensor) -> Tensor:
    """Mean feature of each class, (K, D), from features (B, D) and label probabilities (B, K).

    With soft labels a sample counts in each class by its probability. A class without samples gives NaN.
    """
    return (y.T @ features) / y.sum(0)[:, None]


def mean_feature_distance(real: Tensor, synthetic: Tensor) -> Tensor:
    """Sum over classes of the squared distance between class means, both (K, D); scalar.

    Zhao & Bilen 2023 (Dataset Condensation with Distribution Matching), eq. 4 as their code computes it.
    """
    return (real - synthetic).square().sum()
