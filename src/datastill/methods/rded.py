"""RDED: real images put together from the crops a teacher recognizes best, without any optimization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from datastill.core import Method, Step
from datastill.data import Batch, Images
from datastill.late import torch
from datastill.methods._patches import Patches, check_patches, mosaics
from datastill.rng import RNG
from datastill.task import Task
from datastill.teachers import Pool
from datastill.teachers.classifier import Classifier

if TYPE_CHECKING:
    from datastill.synthetic import SyntheticSet


class RDED(Method):
    """Real images put together from the crops that a teacher recognizes best (Sun et al. 2024, CVPR, "On the Diversity and
    Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm").

    Students are meant to see the teacher's soft labels: ``protocol=rded``.

    pool: the teachers that choose, those of the run's network by default; with several, the mean of their losses counts.
    patches: how crops are chosen and put together. The paper takes ``factor`` 1 for CIFAR and Tiny-ImageNet and 2 for
        ImageNet. It normalizes all data with ImageNet's mean and std; here they are those of the data.
    """

    pool: Pool = Classifier(networks=())
    patches: Patches = Patches()
    iterations: int = Field(default=0, ge=0, le=0)

    @property
    def splits(self) -> bool:
        return True

    def class_unit(self, classes: int) -> int:
        return 1

    def check(self, task: Task, ipc: int) -> None:
        self.pool.for_network(task.network).check(task.context, {"class_logits"})
        check_patches(self.patches, task, (task.ipc or ipc) * task.parametrization.starts)

    def prepare(self, task: Task) -> Mapping[str, Any]:
        pool = self.pool.for_network(task.network)
        pool.prepare(task.context)
        return {"teachers": pool.facts(task.context)}

    def start(self, task: Task, ipc: int, rng: RNG) -> SyntheticSet:
        numbers = range(task.first, task.first + ipc)
        x = mosaics(self.patches, task, self.pool.for_network(task.network), task.ipc or ipc, numbers, rng("patches"))
        labels = torch.eye(task.classes, device=x.device)[list(task.here)].repeat_interleave(ipc, 0)
        return task.synthetic(Batch(x, labels), rng=rng("encode"))

    def iterate(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> Iterator[Step]:
        yield from ()

    def rehearsal(self, task: Task, ipc: int) -> tuple[Method, Images, float]:
        return self, *super().rehearsal(task, ipc)[1:]
