"""Teachers trained the way of MTT, or of FTD, with their whole trajectories."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from datastill.functional.augment import STRATEGY, Strategy
from datastill.nets import Architecture
from datastill.teachers._trained import Trained
from datastill.train import Sharpness


class Experts(Trained):
    """Networks trained by the recipe of MTT's experts (Cazenavette et al. 2022): plain SGD, learning rate 0.01, 50 epochs,
    DSA augmentation, and a snapshot at every epoch; of the run's own network unless others are named.

    rho: above 0 they are trained by GSAM, into flat minima, the way of FTD (Du et al. 2023; 0.01 there): so far every step
        climbs; alpha: how much of the surrogate gap it descends (0.3 and 1 there); adaptive: with ASAM's scaling.
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
