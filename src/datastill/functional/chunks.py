"""Terms over many images in the memory of a few: the gradient at the images is computed with the value, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Known(torch.autograd.Function):
    """A value whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None


def sum_over(term: Callable[[Tensor, slice], Tensor], x: Tensor, size: int) -> Tensor:
    """Sum of ``term(part, rows)``, scalars, over parts of x (B, C, H, W) of ``size`` images; differentiable once in x."""
    if not (x.requires_grad and torch.is_grad_enabled()):
        return torch.stack([term(part, rows) for part, rows in _parts(x, size)]).sum()
    total, gradients = x.new_zeros(()), []
    for part, rows in _parts(x, size):
        leaf = part.detach().requires_grad_()
        value = term(leaf, rows)
        gradients.append(torch.autograd.grad(value, leaf)[0])
        total += value.detach()
    return _Known.apply(x, total, torch.cat(gradients))


def of_features(features: Callable[[Tensor], Tensor], loss: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """``loss`` of the features (B, D) of all images, for losses that do not add up over images; differentiable once in x.

    A second pass over the images takes the place of keeping the graph of the first one.
    """
    if x.requires_grad and torch.is_grad_enabled() and len(x) <= size:
        return loss(features(x))
    with torch.no_grad():
        found = torch.cat([features(part) for part, _ in _parts(x, size)])
    if not (x.requires_grad and torch.is_grad_enabled()):
        return loss(found)
    leaf = found.requires_grad_()
    value = loss(leaf)
    (wanted,) = torch.autograd.grad(value, leaf)
    gradients = []
    for part, rows in _parts(x, size):
        images = part.detach().requires_grad_()
        gradients.append(torch.autograd.grad(features(images), images, wanted[rows])[0])
    return _Known.apply(x, value.detach(), torch.cat(gradients))


def _parts(x: Tensor, size: int) -> list[tuple[Tensor, slice]]:
    return [(x[start:start + size], slice(start, start + size)) for start in range(0, len(x), size)]
