"""How images come from the parameters that are learned."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from datastill.data import Batch
from datastill.description import Family
from datastill.rng import RNG

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.core import Task


class Parametrization(Family):
    """How images come from the parameters that are learned. A new one is a file in ``datastill/parametrizations``.

    A set *stores* ``ipc`` images of each class, in class order, and their labels; what students see is what these *decode*
    to: N images of the data's shape, in class order too, equally many of each class. N may differ from the number stored.
    """

    home: ClassVar[str] = "datastill.parametrizations"

    def check(self, task: Task, ipc: int) -> None:
        """Check that it fits the task and ``ipc`` stored images a class, before any work. Raises InputError."""

    def prepare(self, task: Task) -> Mapping[str, Any]:
        """Make what is needed before the first iteration; returns what the card is to say of it."""
        return {}

    @abstractmethod
    def encode(self, start: Batch, task: Task, rng: RNG) -> dict[str, Tensor]:
        """Parameters to start from, by name.

        start: one image for each one stored, normalized, (S, C, H, W), and its label (S, K), probabilities or logits.
        Where more real images are needed they are drawn from ``task.real``, by ``rng``.
        """

    @abstractmethod
    def decode(self, parameters: Mapping[str, Tensor], rows: Tensor | None = None) -> Tensor:
        """Normalized images (N, C, H, W), differentiable in the parameters; those of these ``rows`` alone where given."""

    def labels(self, stored: Tensor) -> Tensor:
        """Labels of the decoded images (N, K) from those of the stored ones (S, K)."""
        return stored
