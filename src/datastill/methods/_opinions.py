"""Experts' predictions for real images: logits, and which images they classify correctly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datastill.data import Batch
from datastill.functional.labels import mean_of_right
from datastill.late import nn, no_grad, torch
from datastill.nets import passes
from datastill.rng import RNG
from datastill.task import Task, filled
from datastill.teachers import Pool

if TYPE_CHECKING:
    from torch import Tensor


def logits(net: nn.Module, x: Tensor) -> Tensor:
    """Logits (B, K) of a network, in chunks of a suitable size."""
    how = passes(net, x, "features")
    return torch.cat([how.logits(part) for (part,) in how.split(x)])


@no_grad
def opinion(task: Task, pool: Pool, batch: Batch) -> Tensor:
    """Mean logits (B, K) of the experts that classify an image correctly."""
    experts = task.teachers(pool)
    return mean_of_right(torch.stack([logits(one.network, batch.x) for one in experts]), batch.y.argmax(1))


def recognized(task: Task, pool: Pool, ipc: int, rng: RNG) -> Batch:
    """Random real images of each class that the first expert classifies correctly; if too few, others too (ours)."""
    expert = task.teachers(pool).teacher(0, 0).network
    rows = []
    for c, of_class in enumerate(task.real.of_class):
        order = torch.as_tensor(of_class).cpu()[rng(c).permutation(len(of_class))]
        right: list[Tensor] = []
        wrong: list[Tensor] = []
        for part in order.split(max(64, 4 * ipc)):
            with torch.no_grad():
                hit = (logits(expert, task.real.batch(part).x).argmax(1) == c).cpu()
            right.append(part[hit])
            wrong.append(part[~hit])
            if sum(map(len, right)) >= ipc:
                break
        rows.append(filled(torch.cat([*right, *wrong]), ipc))
    return task.real.batch(torch.cat(rows))
