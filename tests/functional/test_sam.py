"""Sharpness-aware training: closed forms."""

from __future__ import annotations

import pytest
import torch

from datastill.functional.sam import gap_direction, perturbation
from datastill.rng import RNG


def vectors(name: str) -> list[torch.Tensor]:
    return [RNG(name, 0).normal(3, 2).double(), RNG(name, 1).normal(5).double()]


def flat(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([p.flatten() for p in parts])


def test_plain_climbs_rho_far_along_the_gradient() -> None:
    step = flat(perturbation(vectors("w"), vectors("g"), 0.05, adaptive=False))
    assert float(step.norm()) == pytest.approx(0.05)
    torch.testing.assert_close(step / step.norm(), flat(vectors("g")) / flat(vectors("g")).norm())


def test_adaptive_does_not_change_when_weights_are_scaled() -> None:
    """ASAM: scaling a weight by s and its gradient by 1 / s scales the perturbation by s."""
    w, g = vectors("w"), vectors("g")
    scaled = perturbation([3 * v for v in w], [v / 3 for v in g], 0.05, adaptive=True)
    torch.testing.assert_close(flat(scaled), 3 * flat(perturbation(w, g, 0.05, adaptive=True)))


def test_the_gap_is_descended_at_a_right_angle_to_the_perturbed_gradient() -> None:
    g, p = vectors("g"), vectors("p")
    vertical = flat(p) - flat(gap_direction(g, p, 1.0))
    assert float(vertical @ flat(p)) == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(flat(gap_direction(g, p, 0.0)), flat(p))
    torch.testing.assert_close(flat(gap_direction(p, p, 0.7)), flat(p))
