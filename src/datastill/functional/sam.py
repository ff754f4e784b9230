"""Sharpness-aware training (SAM, ASAM, GSAM): the weight perturbation and the update direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datastill.late import torch

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-12


def perturbation(weights: Sequence[Tensor], gradients: Sequence[Tensor], rho: float, adaptive: bool) -> list[Tensor]:
    """Ascent step of length ``rho`` to add to the weights: rho g / |g|, all tensors as one vector (Foret et al. 2021).

    ``adaptive``: rho w^2 g / | |w| g |, elementwise products (Kwon et al. 2021).
    """
    if not adaptive:
        scale = rho / (_norm(gradients) + EPSILON)
        return [scale * g for g in gradients]
    scale = rho / (_norm([w.abs() * g for w, g in zip(weights, gradients, strict=True)]) + EPSILON)
    return [scale * w.square() * g for w, g in zip(weights, gradients, strict=True)]


def gap_direction(gradients: Sequence[Tensor], perturbed: Sequence[Tensor], alpha: float) -> list[Tensor]:
    """GSAM's direction (Zhuang et al. 2022): the gradient at the perturbed weights, minus ``alpha`` times the component of
    the gradient at the unperturbed weights that is orthogonal to it."""
    here, there = _norm(gradients), _norm(perturbed)
    cosine = _dot(gradients, perturbed) / (here * there + EPSILON)
    along = cosine * here / (there + EPSILON)
    return [p - alpha * (g - along * p) for g, p in zip(gradients, perturbed, strict=True)]


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([t.square().sum() for t in tensors]).sum().sqrt()


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
