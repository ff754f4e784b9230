"""Training on synthetic images as a function of them: N steps of SGD, differentiable with the memory of one or a few."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from datastill.functional.inner import Inner, norm
from datastill.late import torch

if TYPE_CHECKING:
    from torch import Tensor

How = Literal["exact", "full", "tesla"]


class Unrolled(NamedTuple):
    """Weights (P,) after the last step, and the norm of every step's gradient with respect to the weights, (N,)."""

    last: Tensor
    norms: Tensor


def unroll(inner: Inner, start: Tensor, x: Tensor, y: Tensor, lr: Tensor, how: How = "exact", *, every: int = 1,
           offload: bool = False, graphs: int = 0) -> Unrolled:
    """SGD from ``start`` (P,) on batches of images x (M, C, H, W) with labels y (M, K; probabilities), learning rate ``lr``
    (scalar), as a function differentiable once in all four, norms included.

    "exact": the full gradient, computed backwards step by step with one step's graph at a time. Only the weights of every
    ``every``-th step are stored (in host memory if ``offload``); the steps in between are recomputed.
    The graphs of the last ``graphs`` steps are kept instead of recomputed: each step of the others takes a third longer.
    "full": torch's own graph of all steps, for reference; memory grows with every step.
    "tesla": the estimate of Cui et al. 2023 (ICML), in which the weights of a step do not depend on earlier ones: biased,
    and slightly faster.
    """
    if how == "full":
        return _full(inner, start, x, y, lr)
    from datastill.functional._unrolled import Unroll

    return Unrolled(*Unroll.apply(start, x, y, lr, inner, how == "exact", every, offload, graphs))


def _full(inner: Inner, weights: Tensor, x: Tensor, y: Tensor, lr: Tensor) -> Unrolled:
    norms = []
    if not weights.requires_grad:
        weights = weights.detach().requires_grad_()
    for number, rows in enumerate(inner.batches):
        loss = inner.loss(weights, x[rows], y[rows], number)
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        norms.append(norm(gradient))
        weights = weights - lr * gradient
    return Unrolled(weights, torch.stack(norms))
