"""Losses over many images in the memory of a few: the gradient is computed together with the value, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from datastill.late import torch

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = tuple[Tensor, ...]


def sum_over(term: Callable[[Tensor, slice], Tensor], x: Tensor, size: int) -> Tensor:
    """Sum of ``term(part, rows)``, scalars, over parts of x (B, C, H, W) of ``size`` images; differentiable once in x."""
    if not (x.requires_grad and torch.is_grad_enabled()):
        return torch.stack([term(part, rows) for part, rows in parts_of(x, size)]).sum()
    total, gradients = x.new_zeros(()), []
    for part, rows in parts_of(x, size):
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
    parts = [part for part, _ in parts_of(x, size)]
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


def of_networks(outputs: Sequence[Callable[[Tensor, slice], Tensors]], loss: Callable[[list[Tensors]], Tensor], x: Tensor,
                sizes: Sequence[int]) -> Tensor:
    """``loss`` of what several networks say of all images, for losses in which networks are compared; differentiable once
    in x.

    outputs: for each network its tensors (b, ...) for a part of x (B, C, H, W) and the rows it is. loss: a scalar of those
    of all images, by network. sizes: images at once, by network. Everything is computed twice, first for the values, then
    part by part with a graph for the gradient: in memory there is the graph of one part of one network, however many there
    are.
    """
    with torch.no_grad():
        found = [_joined([of(part, rows) for part, rows in parts_of(x, size)])
                 for of, size in zip(outputs, sizes, strict=True)]
    if not (x.requires_grad and torch.is_grad_enabled()):
        return loss(found)
    leaves = [tuple(one.detach().requires_grad_() for one in several) for several in found]
    value = loss(leaves)
    flat = [one for several in leaves for one in several]
    wanted = iter(torch.autograd.grad(value, flat, allow_unused=True))
    total = torch.zeros_like(x)
    for of, size, several in zip(outputs, sizes, leaves, strict=True):
        slopes = [next(wanted) for _ in several]
        if all(one is None for one in slopes):
            continue
        for part, rows in parts_of(x, size):
            leaf = part.detach().requires_grad_()
            pairs = [(one, slope[rows]) for one, slope in zip(of(leaf, rows), slopes, strict=True)
                     if slope is not None and one.requires_grad]
            if pairs:
                (gradient,) = torch.autograd.grad([one for one, _ in pairs], leaf, [slope for _, slope in pairs])
                total[rows] += gradient
    from datastill.functional._known import Known

    return Known.apply(x, value.detach(), total)


def _joined(parts: Sequence[Tensors]) -> Tensors:
    return tuple(torch.cat(one) for one in zip(*parts, strict=True))


def parts_of(x: Tensor, size: int) -> list[tuple[Tensor, slice]]:
    """Parts of ``size`` rows of x, the last one shorter, each with the rows it is."""
    return [(x[start:start + size], slice(start, start + size)) for start in range(0, len(x), size)]
