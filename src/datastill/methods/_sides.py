"""Images of another size than the data, in the stages of a recovery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from datastill.errors import InputError
from datastill.late import torch
from datastill.task import Task
from datastill.teachers import Pool, Teacher, Teachers


def seen_sides(size: Sequence[int], task: Task, teacher: Teacher) -> tuple[int, int]:
    """Rows and columns in which a teacher sees images of this size of the data's."""
    height, width = (max(1, round(theirs * side / ours)) for theirs, side, ours in zip(
        teacher.domain.shape[1:], size, task.real.shape[1:], strict=True))
    return height, width


def check_sides(sides: Sequence[int], pool: Pool, task: Task) -> None:
    """Check that teachers take images of these sides. Raises InputError."""
    for teacher in Teachers(pool, replace(task.context, dry_run=True)):
        for side in {*sides}:
            size = seen_sides((side, side), task, teacher)
            try:
                with torch.no_grad():
                    teacher.network(torch.zeros(1, teacher.domain.shape[0], *size, device=task.device))
            except (RuntimeError, ValueError, InputError):
                raise InputError(f"sides: teacher {teacher.name} does not take images of {size[0]}x{size[1]} pixels; take "
                                 "networks that pool over all places, such as ResNets, or leave method.sides out") from None
