"""Teachers trained as in MTT or FTD, stored with their whole trajectories."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from datastill.functional.augment import STRATEGY, Strategy
from datastill.nets import Architecture
from datastill.teachers._trained import Trained
from datastill.train import Sharpness


class Experts(Trained):
    """Networks trained with the recipe of MTT's experts (Cazenavette et al. 2022): plain SGD, learning rate 0.01, 50 epochs,
    DSA augmentation, and a snapshot at every epoch; the run's own network unless others are named.

    rho: above 0, training uses GSAM to find flat minima, as in FTD (Du et al. 2023); the length of the ascent step (0.01
        there). alpha: weight of the surrogate gap in each step (0.3 and 1 there). adaptive: use ASAM's scaling.
    """

    networks: tuple[Architecture, ...] = ()
    count: int = Field(default=100, ge=1, le=10_000)
    epochs: int = Field(default=50, ge=0, le=100_000)
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    drops: tuple[float, ...] = ()
    augment: Strategy = STRATEGY
    snapshots: tuple[int, ...] | Literal["every"] = "every"
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    rho: float = Field(default=0.0, ge=0.0)
    alpha: float = Field(default=0.3, ge=0.0)
    adaptive: bool = True

    def how(self) -> dict[str, Any]:
        sharpness = Sharpness(self.rho, self.alpha, self.adaptive) if self.rho > 0 else None
        return {**super().how(), "sharpness": sharpness}
