"""A teacher as a network of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from datastill.teachers.pool import Teacher


class ForRun(nn.Module):
    """Takes images of the run, (B, C, H, W), and gives logits of its classes."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.network, self._teacher = teacher.network, (teacher,)  # in a tuple, or it would become a part of this one

    def forward(self, x: Tensor) -> Tensor:
        return self._teacher[0].class_logits(x)

    def embed(self, x: Tensor) -> Tensor:
        """Features (B, D) before the classifier."""
        return self._teacher[0].embed(x)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps by name."""
        return self._teacher[0].maps(x)
