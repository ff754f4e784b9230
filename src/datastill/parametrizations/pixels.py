"""The images themselves are learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from datastill.data import Batch
from datastill.parametrization import Parametrization
from datastill.rng import RNG

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.task import Task


class Pixels(Parametrization):
    """Every pixel is a parameter, in normalized space, not clamped (as in DC, DSA, DM, MTT)."""

    in_pixels: ClassVar[bool] = True

    def encode(self, start: Batch, task: Task, rng: RNG) -> dict[str, Tensor]:
        return {"pixels": start.x}

    def decode(self, parameters: Mapping[str, Tensor], rows: Tensor | None = None) -> Tensor:
        return parameters["pixels"] if rows is None else parameters["pixels"][rows]
