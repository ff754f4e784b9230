"""How much memory the gradient through an inner training needs, in each of its forms."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from datastill import memory
from datastill.functional.augment import augment_images
from datastill.functional.inner import Inner
from datastill.late import nn, torch
from datastill.nets import Architecture, as_function, chunk_size, fresh
from datastill.nets.network import Shape
from datastill.rng import RNG
from datastill.task import Task

if TYPE_CHECKING:
    from torch import Tensor

# Steps whose graphs are kept: at most a third of them, so that the peak stays below half that of the full graph; at most
# four, so that it does not grow with the steps; at most as many as fit in this share of the memory.
THIRD, MOST, BUDGET = 1 / 3, 4, 1 / 8


class Held(NamedTuple):
    """Bytes: held by the graph of one chunk of images and of a whole step, of one weight vector."""

    chunk: int
    step: int
    weights: int

    def peaks(self, steps: int, kept: int, graphs: int) -> dict[str, int]:
        """Estimated peaks of ``steps`` inner steps by ``gradient``, with ``kept`` weight vectors and the graphs of
        ``graphs`` steps.

        The peak is about three times what the graph of a chunk holds, and two steps more than the full graph has: measured,
        2.2 to 4.0 times and 0.8 to 1.5 times, less with fused kernels and for large maps (benchmarks/trajectory.py).
        """
        one = 3 * self.chunk + kept * self.weights + graphs * self.step
        return {"gradient=exact": one, "gradient=tesla": one, "gradient=full": (steps + 2) * self.step}

    def graphs(self, steps: int, device: torch.device) -> int:
        """How many steps keep their graphs by default."""
        return min(round(THIRD * steps), MOST, int(BUDGET * memory.total(device) / self.step))


def unroll_memory(net: nn.Module, task: Task, strategy: str, images: int) -> Held:
    """What inner steps of a network of the task on ``images`` images hold, measured on a few."""
    held = _measured(task.network, task.real.shape, task.classes, strategy, task.device)
    chunk = chunk_size(net, torch.empty(images, *task.real.shape, device=task.device), twice=True)
    return Held(held.step + chunk * held.chunk, held.step + images * held.chunk, held.weights)


@cache
def _measured(network: Architecture, shape: Shape, classes: int, strategy: str, device: torch.device) -> Held:
    """Of one image (``chunk``), and whatever their number (``step``)."""
    start, predict = as_function(fresh(network, shape, classes, RNG("memory"), device))
    few, more = (_held(predict, start, shape, classes, strategy, count) for count in (2, 4))
    each = (more - few) // 2
    return Held(each, max(0, few - 2 * each), start.nbytes)


def _held(predict: Any, start: Tensor, shape: Shape, classes: int, strategy: str, count: int) -> int:
    """Bytes held by the graph of one inner step on ``count`` images."""
    x = RNG("memory")("images").normal(count, *shape).to(start.device).requires_grad_()
    y = torch.full((count, classes), 1 / classes, device=start.device)
    augment = None if strategy == "none" else lambda x, number: augment_images(x, RNG("memory")(number), strategy)
    inner, weights = Inner(predict, [torch.arange(count)], augment), start.clone().requires_grad_()
    return memory.held_by_graph(lambda: torch.autograd.grad(inner.loss(weights, x, y, 0), weights, create_graph=True))
