"""Teachers trained the way of MTT, with their whole trajectories."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from datastill.functional.augment import STRATEGY, Strategy
from datastill.teachers._trained import Trained


class Experts(Trained):
    """Networks trained by the recipe of MTT's experts (Cazenavette et al. 2022): plain SGD, step size 0.01, 50 epochs, DSA
    augmentation, and a snapshot at every epoch."""

    initialisations: int = Field(default=100, ge=1, le=10_000)
    epochs: int = Field(default=50, ge=0, le=100_000)
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    drops: tuple[float, ...] = ()
    augment: Strategy = STRATEGY
    snapshots: tuple[int, ...] | Literal["every"] = "every"
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
