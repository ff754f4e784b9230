"""A function of many rows in the memory of a few: its gradient is computed part by part, again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from datastill.functional.chunks import parts_of


class Recomputed(torch.autograd.Function):
    """Forward computes ``function(part of each input, rows)`` part by part without a graph; backward computes each part
    again, with one. Differentiable once."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[tuple[Tensor, ...], slice], Tensor], size: int, *inputs: Tensor) -> Tensor:
        ctx.function, ctx.size = function, size
        ctx.save_for_backward(*inputs)
        return torch.cat([function(tuple(one[rows] for one in inputs), rows) for _, rows in parts_of(inputs[0], size)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        wanted = [number for number, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        found = {number: torch.zeros_like(inputs[number]) for number in wanted}
        for _, rows in parts_of(inputs[0], ctx.size):
            with torch.enable_grad():
                parts = [one[rows].detach().requires_grad_(number in found) for number, one in enumerate(inputs)]
                out = ctx.function(tuple(parts), rows)
            gradients = torch.autograd.grad(out, [parts[number] for number in wanted], upstream[rows], allow_unused=True)
            for number, gradient in zip(wanted, gradients, strict=True):
                if gradient is not None:
                    found[number][rows] = gradient
        return (None, None, *(found.get(number) for number in range(len(inputs))))
