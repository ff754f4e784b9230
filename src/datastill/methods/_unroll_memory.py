"""How much memory the gradient through an inner training needs, in each of its forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datastill import memory
from datastill.core import Task
from datastill.functional.inner import Inner
from datastill.late import torch
from datastill.nets import as_function, chunk_size
from datastill.rng import RNG

if TYPE_CHECKING:
    from torch import Tensor


def unroll_memory(task: Task, augment: Any, images: int, steps: int, kept: int) -> dict[str, int]:
    """Estimated peak in bytes, by ``gradient``, of ``steps`` inner steps on ``images`` images each, plus ``kept`` weight
    vectors.

    Peaks are about three times what the graph of a step, or of one of its chunks, holds; on a CPU the allocator keeps two
    fifths more (measured: benchmarks/trajectory.py).
    """
    net = task.fresh(RNG("memory"))
    start, predict = as_function(net)
    few, more = (_held(predict, start, task, augment, count) for count in (2, 4))
    each = (more - few) // 2
    fixed, slack = max(0, few - 2 * each), 1.4 if task.device.type == "cpu" else 1.1
    chunk = chunk_size(net, task.real.batch(torch.tensor([0])).x.expand(images, -1, -1, -1))
    one = int(slack * 3 * (fixed + chunk * each)) + kept * 4 * len(start)
    full = int(slack * (steps + 2) * (fixed + images * each))
    return {"gradient=exact": one, "gradient=tesla": one, "gradient=full": full}


def _held(predict: Any, start: Tensor, task: Task, augment: Any, count: int) -> int:
    """Bytes held by the graph of one inner step on ``count`` images."""
    x, y = task.real.batch(torch.arange(count))
    inner = Inner(predict, [torch.arange(count)], augment)
    x, weights = x.clone().requires_grad_(), start.clone().requires_grad_()
    return memory.held_by_graph(lambda: torch.autograd.grad(inner.loss(weights, x, y, 0), weights, create_graph=True))
