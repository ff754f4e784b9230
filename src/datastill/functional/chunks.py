"""Losses over many images in the memory of a few: the gradient is computed together with the value, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from datastill.late import torch

if TYPE_CHECKING:
    from torch import Tensor


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
    from datastill.functional._known import Known

    return Known.apply(x, total, torch.cat(gradients))


KEPT = 4  # parts whose graph is kept, so that memory is bounded for any number of images


def of_features(features: Callable[[Tensor], Tensor], loss: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """``loss`` of the features (B, D) of all images, for losses that do not add up over images; differentiable once in x.

    Features are computed in parts of ``size`` images. The first few parts keep their graph; the others are computed again
    for the gradient, so that memory does not grow with the number of images.
    """
    parts = [part for part, _ in _parts(x, size)]
    if not (x.requires_grad and torch.is_grad_enabled()):
        return loss(torch.cat([features(part) for part in parts]))
    inputs = [part.detach().requires_grad_() for part in parts]
    outputs = [features(part) for part in inputs[:KEPT]]
    with torch.no_grad():
        found = torch.cat([out.detach() for out in outputs] + [features(part) for part in inputs[KEPT:]])
    value = loss(found.requires_grad_())
    wanted = torch.autograd.grad(value, found)[0].split(size)
    gradients = []
    for number, part in enumerate(inputs):
        out = outputs[number] if number < KEPT else features(part)
        gradients.append(torch.autograd.grad(out, part, wanted[number])[0])
    from datastill.functional._known import Known

    return Known.apply(x, value.detach(), torch.cat(gradients))


def _parts(x: Tensor, size: int) -> list[tuple[Tensor, slice]]:
    return [(x[start:start + size], slice(start, start + size)) for start in range(0, len(x), size)]
