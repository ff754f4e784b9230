"""CLoM: synthetic images that pre-trained models of the same classes recognize."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from datastill.core import Step
from datastill.digest import spec
from datastill.errors import InputError
from datastill.functional.guidance import clom
from datastill.plugins._guidance import Guidance
from datastill.rng import RNG
from datastill.task import Task
from datastill.teachers import Teacher
from datastill.teachers._names import outputs_for
from datastill.teachers.pool import listed

if TYPE_CHECKING:
    from torch import Tensor


class CLoM(Guidance):
    """Classification loss of a pre-trained model (Lu et al. 2023, "Can Pre-Trained Models Assist in Dataset Distillation?"):
    mean cross-entropy of a frozen teacher on all synthetic images of a step, without augmentation.

    The teachers must know the run's classes, and may know more; names may be written differently (tench, Tench, n01440764).
    The cross-entropy is over the run's classes (ours, if the teachers know more). For teachers of other classes there is
    ``cclom``. The authors' weights (their tables
    of May 2023): 2000 for DM, 1000 for DC, 5000 for DSA on CIFAR-10 at 10 images per class, 100 on Fashion-MNIST.
    """

    asks: ClassVar[frozenset[str]] = frozenset({"logits"})

    def check(self, task: Task, ipc: int) -> None:
        super().check(task, ipc)
        ours, pool = task.real.classes, self.pool.for_network(task.network)
        for group, network in enumerate(pool.networks):
            theirs = pool.domain(task.context, group).classes
            try:
                outputs_for(theirs, ours)
            except InputError as error:
                named = "" if len(theirs) != len(ours) else \
                    "if the outputs are these classes in this order, set classes=run in a pretrained pool; "
                raise InputError(f"clom needs teachers of the run's classes: {spec(network)} knows {listed(theirs)}, the "
                                 f"run has {listed(ours)}, and {error}; {named}use cclom, which compares features "
                                 "instead") from None

    def term(self, teacher: Teacher, step: Step, task: Task, rng: RNG) -> Tensor:
        x, y = step.batch
        return clom(teacher, x, y)
