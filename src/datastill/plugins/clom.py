"""CLoM: synthetic images that pre-trained models of the same classes recognize."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from datastill.core import Step, Task
from datastill.errors import InputError
from datastill.functional.guidance import clom
from datastill.plugins._guidance import Guidance
from datastill.rng import RNG
from datastill.teachers import Teacher

if TYPE_CHECKING:
    from torch import Tensor


class CLoM(Guidance):
    """Classification loss of a pre-trained model (Lu et al. 2023, "Can Pre-Trained Models Assist in Dataset Distillation?"):
    mean cross-entropy of a frozen teacher on all synthetic images of a step, without augmentation.

    The teachers must know the run's classes in its order; for others there is ``cclom``. The authors' weights (their tables
    of May 2023): 2000 for DM, 1000 for DC, 5000 for DSA on CIFAR-10 at 10 images per class, 100 on Fashion-MNIST.
    """

    asks: ClassVar[frozenset[str]] = frozenset({"logits"})

    def check(self, task: Task, ipc: int) -> None:
        super().check(task, ipc)
        ours, pool = task.real.classes, self.pool.for_network(task.network)
        known = [pool.domain(task.context, group).classes for group in range(len(pool.networks))]
        if theirs := next((classes for classes in known if classes != ours), None):
            named = "" if len(theirs) != len(ours) else \
                "if only the names differ, set classes=run in a pretrained pool; "
            raise InputError(f"clom needs teachers of the same classes in the same order: they know {_shown(theirs)}, the "
                             f"run has {_shown(ours)}; {named}use cclom, which compares features instead")

    def term(self, teacher: Teacher, step: Step, task: Task, rng: RNG) -> Tensor:
        x, y = step.batch
        return clom(teacher, x, y)


def _shown(classes: tuple[str, ...]) -> str:
    return f"{len(classes)} ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''})"
