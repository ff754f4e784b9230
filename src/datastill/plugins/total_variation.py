"""Smoother images: a penalty on differences between neighboring pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datastill.core import Plugin, Step
from datastill.functional.smoothness import total_variation
from datastill.rng import RNG
from datastill.task import Task

if TYPE_CHECKING:
    from torch import Tensor


class TotalVariation(Plugin):
    """Anisotropic total variation (Rudin, Osher & Fatemi 1992) of the synthetic images, per pixel and image."""

    def loss(self, step: Step, task: Task, rng: RNG) -> Tensor:
        return total_variation(step.batch.x)
