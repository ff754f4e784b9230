"""The exact gradient through steps of SGD, computed backwards step by step with the graphs of one step or a few."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from datastill.functional.inner import Graph, Inner, norm


class Unroll(torch.autograd.Function):
    """Backward goes through the steps in reverse. Let g be a step's gradient, l the cotangent of the weights after it and n
    that of |g|. The step adds the derivatives of (-lr l + n g/|g|) . g, with the vector in parentheses held constant, to the
    cotangents of the images, the labels and the weights before it, and -l . g to that of lr. Graphs that were kept are freed
    as they are used."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, x: Tensor, y: Tensor, lr: Tensor, inner: Inner, exact: bool, every: int,
                offload: bool, graphs: int) -> tuple[Tensor, Tensor]:
        weights, kept, norms = start.detach(), [], []
        ctx.graphs = dict[int, Graph]()  # of the last steps: they are freed first
        for number, rows in enumerate(inner.batches):
            if number % every == 0:
                kept.append(weights.cpu() if offload else weights)
            if number >= len(inner.batches) - graphs:
                ctx.graphs[number] = inner.graph(weights, x[rows], y[rows], number, keep=True)
                gradient = ctx.graphs[number].gradient()
            else:
                gradient = inner.gradient(weights, x[rows], y[rows], number)
            norms.append(norm(gradient))
            weights = weights - lr * gradient
        ctx.inner, ctx.exact, ctx.every, ctx.roomy = inner, exact, every, graphs > 0
        ctx.save_for_backward(x, y, lr, *kept)
        return weights.clone(), torch.stack(norms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, at_last: Tensor, at_norms: Tensor) -> tuple[Tensor | None, ...]:
        x, y, lr, *kept = ctx.saved_tensors
        inner, exact, every = ctx.inner, ctx.exact, ctx.every
        asked = (at_norms != 0).tolist()  # copied once: every access would synchronize with the device
        to_x, to_y, to_lr, cotangent = torch.zeros_like(x), torch.zeros_like(y), torch.zeros_like(lr), at_last.clone()
        for segment in reversed(range(len(kept))):
            numbers = range(segment * every, min((segment + 1) * every, len(inner.batches)))
            lacking = [number for number in numbers if number not in ctx.graphs]
            trail = _again(inner, kept[segment].to(x.device), x, y, lr, lacking)
            for number in reversed(numbers):
                rows, graph = inner.batches[number], ctx.graphs.pop(number, None)
                weights = trail.pop() if graph is None else None
                along, held = -lr * cotangent, graph is not None
                if graph is None:  # not kept, or freed by an earlier pass backwards
                    # Where graphs of later steps had room, that of this one has, and spares computing the gradient twice.
                    held = asked[number] and ctx.roomy
                    graph = inner.graph(weights, x[rows], y[rows], number, keep=held)
                if asked[number]:
                    gradient = graph.gradient() if held else inner.gradient(weights, x[rows], y[rows], number)
                    along = along + at_norms[number] * gradient / norm(gradient)
                through = exact and (number > 0 or ctx.needs_input_grad[0])
                dx, dy, product, back = graph.pull(along, cotangent, through)
                to_x.index_add_(0, rows, dx)  # torch uses a deterministic version if that is requested
                to_y.index_add_(0, rows, dy)
                to_lr -= product
                if back is not None:
                    cotangent = cotangent + back
        return cotangent, to_x, to_y, to_lr, None, None, None, None, None


def _again(inner: Inner, weights: Tensor, x: Tensor, y: Tensor, lr: Tensor, numbers: list[int]) -> list[Tensor]:
    """Recompute the weights before each of these steps; ``weights`` are those before the first."""
    trail = [weights]
    for number in numbers[:-1]:
        rows = inner.batches[number]
        trail.append(trail[-1] - lr * inner.gradient(trail[-1], x[rows], y[rows], number))
    return trail
