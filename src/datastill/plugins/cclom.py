"""CCLoM: synthetic images whose features in pre-trained models are close to those of real images of their class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from datastill.core import Step
from datastill.functional.chunks import of_features
from datastill.functional.guidance import class_sums, share_of_sums
from datastill.late import torch
from datastill.plugins._guidance import Guidance
from datastill.rng import RNG
from datastill.task import Task
from datastill.teachers import Teacher

if TYPE_CHECKING:
    from torch import Tensor


class CCLoM(Guidance):
    """Contrastive classification loss of a pre-trained model (Lu et al. 2023): of the cosine distances between the features
    of all synthetic and ``batch_real`` real images, the share that is between images of one class; 1/K by chance.

    The teachers may know other classes than the run's. Real images are drawn with replacement, all classes mixed; their
    features are computed once for each teacher and cached beside it. The authors draw 8196, we 1024.
    """

    batch_real: int = Field(default=1024, ge=1)

    def prepare(self, task: Task) -> Mapping[str, Any]:
        made = super().prepare(task)
        for teacher in task.teachers(self.pool):
            teacher.directions(task.real)
        return made

    def term(self, teacher: Teacher, step: Step, task: Task, rng: RNG) -> Tensor:
        x, y = step.batch
        rows = rng.numpy().integers(len(task.real), size=self.batch_real)
        known = np.ascontiguousarray(teacher.directions(task.real)[rows])
        targets = task.real.targets[torch.from_numpy(rows)].to(x.device)
        sums, counts = class_sums(torch.from_numpy(known).to(x.device, x.dtype), targets, task.classes)
        return of_features(teacher.embed, lambda found: share_of_sums(found, y, sums, counts), x, teacher.chunk(x))
