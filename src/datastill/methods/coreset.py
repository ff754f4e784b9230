"""Real images chosen without any optimisation: the baseline every method has to beat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from datastill.core import Method, Step, Task
from datastill.rng import RNG
from datastill.synthetic import SyntheticSet


class Coreset(Method):
    """``ipc`` real images of each class. ``choose`` "random": uniformly, without replacement."""

    choose: Literal["random"] = "random"
    iterations: int = Field(default=0, ge=0, le=0)

    def start(self, task: Task, ipc: int, rng: RNG) -> SyntheticSet:
        return task.synthetic(task.random_real(ipc, rng("random")))

    def iterate(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> Iterator[Step]:
        yield from ()
