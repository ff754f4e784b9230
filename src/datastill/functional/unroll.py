"""Training on synthetic images as a function of them: N steps of SGD, differentiable in the memory of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Predict = Callable[[Tensor, Tensor], Tensor]  # (weights (P,), images (B, C, H, W)) -> logits (B, K)
Augment = Callable[[Tensor, int], Tensor]  # (images of a batch, number of the step) -> images; the same for the same number
How = Literal["exact", "full", "tesla"]


class Unrolled(NamedTuple):
    """Weights (P,) after the last step, and the norm of every step's gradient with respect to the weights, (N,)."""

    last: Tensor
    norms: Tensor


@dataclass(frozen=True, eq=False)
class Inner:
    """The steps: on which rows of the synthetic set, augmented how, ``chunk`` images at a time (0: all at once). Inside
    ``drawing(number)`` the network itself draws (dropout) the same every time."""

    predict: Predict
    batches: Sequence[Tensor]
    augment: Augment | None = None
    chunk: int = 0
    drawing: Callable[[int], AbstractContextManager[None]] = lambda number: nullcontext()

    def loss(self, weights: Tensor, x: Tensor, y: Tensor, number: int) -> Tensor:
        """Mean cross-entropy of a whole batch, augmented."""
        with self.drawing(number):
            return F.cross_entropy(self.predict(weights, self.augmented(x, number)), y)

    def augmented(self, x: Tensor, number: int) -> Tensor:
        return x if self.augment is None else self.augment(x, number)

    def parts(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.chunk or len(x)
        return zip(x.split(size), y.split(size), strict=True)

    def gradient(self, weights: Tensor, x: Tensor, y: Tensor, number: int) -> Tensor:
        """Gradient (P,) of the loss with respect to the weights, without a graph."""
        seen, total = self.augmented(x, number), torch.zeros_like(weights)
        with self.drawing(number):
            for images, labels in self.parts(seen, y):
                with torch.enable_grad():
                    leaf = weights.detach().requires_grad_()
                    loss = F.cross_entropy(self.predict(leaf, images), labels, reduction="sum") / len(x)
                total += torch.autograd.grad(loss, leaf)[0]
        return total

    def pull(self, weights: Tensor, x: Tensor, y: Tensor, number: int, along: Tensor, beside: Tensor,
             through: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Derivatives of ``along . gradient`` with respect to x, y and, where ``through``, the weights; and
        ``beside . gradient``. One chunk's graph at a time."""
        with torch.enable_grad():
            pixels = x.detach().requires_grad_()
            seen = self.augmented(pixels, number)
        product, at_seen, at_labels = weights.new_zeros(()), [], []
        at_weights = torch.zeros_like(weights) if through else None
        with self.drawing(number):
            for images, labels in self.parts(seen.detach(), y.detach()):
                with torch.enable_grad():
                    leaves = (images.requires_grad_(), labels.requires_grad_(), weights.detach().requires_grad_())
                    loss = F.cross_entropy(self.predict(leaves[2], leaves[0]), leaves[1], reduction="sum") / len(x)
                    (gradient,) = torch.autograd.grad(loss, leaves[2], create_graph=True)
                    product_along, wanted = (along * gradient).sum(), leaves if through else leaves[:2]
                    found = torch.autograd.grad(product_along, wanted, allow_unused=True)
                product += (beside * gradient.detach()).sum()
                at_seen.append(found[0])
                at_labels.append(torch.zeros_like(labels) if found[1] is None else found[1])
                if at_weights is not None and found[2] is not None:
                    at_weights += found[2]
        at_pixels = torch.cat(at_seen) if self.augment is None else torch.autograd.grad(seen, pixels, torch.cat(at_seen))[0]
        return at_pixels, torch.cat(at_labels), product, at_weights


def unroll(inner: Inner, start: Tensor, x: Tensor, y: Tensor, lr: Tensor, how: How = "exact", *, every: int = 1,
           offload: bool = False) -> Unrolled:
    """SGD from ``start`` (P,) on batches of images x (M, C, H, W) with labels y (M, K; probabilities), learning rate ``lr``
    (scalar), as a function differentiable once in all four, norms included.

    "exact": the gradient of the whole, step by step backwards with one step's graph at a time. Beside it only the weights of
    every ``every``-th step are kept (in host memory if ``offload``) and the steps between made again.
    "full": torch's own graph of all steps, for reference; memory grows with every step.
    "tesla": the estimate of Cui et al. 2023 (ICML), in which a step's weights do not depend on earlier ones: biased, and a
    little faster.
    """
    if how == "full":
        return _full(inner, start, x, y, lr)
    return Unrolled(*_Unroll.apply(start, x, y, lr, inner, how == "exact", every, offload))


def _full(inner: Inner, weights: Tensor, x: Tensor, y: Tensor, lr: Tensor) -> Unrolled:
    norms = []
    if not weights.requires_grad:
        weights = weights.detach().requires_grad_()
    for number, rows in enumerate(inner.batches):
        loss = inner.loss(weights, x[rows], y[rows], number)
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        norms.append(_norm(gradient))
        weights = weights - lr * gradient
    return Unrolled(weights, torch.stack(norms))


def _norm(gradient: Tensor) -> Tensor:
    """Differentiable also where it is 0."""
    return (gradient.square().sum() + 1e-12).sqrt()


class _Unroll(torch.autograd.Function):
    """Backward walks the steps in reverse. With the step's gradient g, cotangents l of the weights after it and n of |g|,
    the derivatives of (-lr l + n g/|g|) . g, that vector held constant, are what the step adds to the cotangents of images,
    labels and the weights before it; -l . g is what it adds to that of lr."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, x: Tensor, y: Tensor, lr: Tensor, inner: Inner, exact: bool, every: int,
                offload: bool) -> tuple[Tensor, Tensor]:
        weights, kept, norms = start.detach(), [], []
        for number, rows in enumerate(inner.batches):
            if number % every == 0:
                kept.append(weights.cpu() if offload else weights)
            gradient = inner.gradient(weights, x[rows], y[rows], number)
            norms.append(_norm(gradient))
            weights = weights - lr * gradient
        ctx.inner, ctx.exact, ctx.every = inner, exact, every
        ctx.save_for_backward(x, y, lr, *kept)
        return weights.clone(), torch.stack(norms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, at_last: Tensor, at_norms: Tensor) -> tuple[Tensor | None, ...]:
        x, y, lr, *kept = ctx.saved_tensors
        inner, exact, every = ctx.inner, ctx.exact, ctx.every
        asked = (at_norms != 0).tolist()  # all at once: every look waits for the device
        to_x, to_y, to_lr, cotangent = torch.zeros_like(x), torch.zeros_like(y), torch.zeros_like(lr), at_last.clone()
        for segment in reversed(range(len(kept))):
            numbers = range(segment * every, min((segment + 1) * every, len(inner.batches)))
            trail = _again(inner, kept[segment].to(x.device), x, y, lr, numbers)
            for number in reversed(numbers):
                weights, rows = trail.pop(), inner.batches[number]
                images, labels, along = x[rows], y[rows], -lr * cotangent
                if asked[number]:
                    gradient = inner.gradient(weights, images, labels, number)
                    along = along + at_norms[number] * gradient / _norm(gradient)
                through = exact and (number > 0 or ctx.needs_input_grad[0])
                dx, dy, product, back = inner.pull(weights, images, labels, number, along, cotangent, through)
                to_x.index_add_(0, rows, dx)  # of which torch takes a deterministic form where it is asked to
                to_y.index_add_(0, rows, dy)
                to_lr -= product
                if back is not None:
                    cotangent = cotangent + back
        return cotangent, to_x, to_y, to_lr, None, None, None, None


def _again(inner: Inner, weights: Tensor, x: Tensor, y: Tensor, lr: Tensor, numbers: range) -> list[Tensor]:
    """The weights before each of these steps, the first ones given."""
    trail = [weights]
    for number in numbers[:-1]:
        rows = inner.batches[number]
        trail.append(trail[-1] - lr * inner.gradient(trail[-1], x[rows], y[rows], number))
    return trail
