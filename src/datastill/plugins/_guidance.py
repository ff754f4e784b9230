"""What plug-ins that are guided by a pool of teachers share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from datastill.core import Plugin, Step
from datastill.late import torch
from datastill.rng import RNG
from datastill.task import Task
from datastill.teachers import Pool, Teacher
from datastill.teachers.supervised import Supervised

if TYPE_CHECKING:
    from torch import Tensor


class Guidance(Plugin):
    """Queries the teachers of a pool.

    asks: what it queries, as in ``Teacher.gives``; set by the class.
    pool: a kind of pool with its settings; ``datastill teach`` trains it ahead of time, a run trains what is missing.
    draw: "one": one teacher drawn for every step, its network first (as in the paper); "mean": the mean over all of them.
    factors: multiplies the weight for each of the pool's networks; 1 by default.
    """

    asks: ClassVar[frozenset[str]] = frozenset({"features"})

    weight: float = Field(default=1000.0, ge=0.0)
    pool: Pool = Supervised()
    draw: Literal["one", "mean"] = "one"
    factors: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _a_factor_each(self) -> Self:
        if self.factors and (len(self.factors) != (count := max(1, len(self.pool.networks))) or min(self.factors) < 0):
            raise ValueError(f"factors: expected a number of at least 0 for each of the {count} networks "
                             f"of the pool, got {list(self.factors)}")
        return self

    @abstractmethod
    def term(self, teacher: Teacher, step: Step, task: Task, rng: RNG) -> Tensor:
        """The term of one teacher, a scalar."""

    def check(self, task: Task, ipc: int) -> None:
        self.pool.for_network(task.network).check(task.context, self.asks)

    def prepare(self, task: Task) -> Mapping[str, Any]:
        pool = self.pool.for_network(task.network)
        pool.prepare(task.context)
        return {"teachers": pool.facts(task.context)}

    def loss(self, step: Step, task: Task, rng: RNG) -> Tensor:
        teachers = task.teachers(self.pool)
        asked = [teachers.draw(rng("teacher"))] if self.draw == "one" else list(teachers)
        terms = [self._factor(teacher) * self.term(teacher, step, task, rng("real")) for teacher in asked]
        return torch.stack(terms).mean()

    def _factor(self, teacher: Teacher) -> float:
        return self.factors[teacher.group] if self.factors else 1.0
