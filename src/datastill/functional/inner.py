"""Training steps on synthetic images, each as a function of weights, images and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datastill.late import F, torch

if TYPE_CHECKING:
    from torch import Tensor

    Predict = Callable[[Tensor, Tensor], Tensor]  # (weights (P,), images (B, C, H, W)) -> logits (B, K)
    Part = tuple[tuple[Tensor, Tensor, Tensor], Tensor]
    Augment = Callable[[Tensor, int], Tensor]  # (images of a batch, step number) -> images; deterministic in the number


@dataclass(frozen=True, eq=False)
class Inner:
    """The steps: which rows of the synthetic set each one uses, how they are augmented, and how many images are processed at
    a time (``chunk``; 0: all). Inside ``drawing(number)`` random layers such as dropout draw the same every time."""

    predict: Predict
    batches: Sequence[Tensor]
    augment: Augment | None = None
    chunk: int = 0
    drawing: Callable[[int], AbstractContextManager[None]] = lambda number: nullcontext()

    def loss(self, weights: Tensor, x: Tensor, y: Tensor, number: int) -> Tensor:
        """Mean cross-entropy of a whole augmented batch."""
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

    def graph(self, weights: Tensor, x: Tensor, y: Tensor, number: int, keep: bool = False) -> Graph:
        """A step to be differentiated again. Its parts are computed when ``pull`` asks for them, one at a time, or now, if
        ``keep``."""
        with torch.enable_grad():
            pixels = x.detach().requires_grad_()
            seen = self.augmented(pixels, number)
        parts = self._graphs(weights.detach(), seen.detach(), y.detach(), number)
        return Graph(pixels, seen, list(parts) if keep else parts)

    def _graphs(self, weights: Tensor, seen: Tensor, y: Tensor, number: int) -> Iterator[Part]:
        with self.drawing(number):
            for images, labels in self.parts(seen, y):
                with torch.enable_grad():
                    leaves = (images.detach().requires_grad_(), labels.detach().requires_grad_(),
                              weights.detach().requires_grad_())
                    loss = F.cross_entropy(self.predict(leaves[2], leaves[0]), leaves[1], reduction="sum") / len(seen)
                    (gradient,) = torch.autograd.grad(loss, leaves[2], create_graph=True)
                yield leaves, gradient


@dataclass(frozen=True, eq=False)
class Graph:
    """The graph of one step: images before (a leaf) and after augmentation, and by chunk its leaves (images, labels,
    weights) and the gradient with respect to the last."""

    pixels: Tensor
    seen: Tensor
    parts: Iterable[Part]

    def gradient(self) -> Tensor:
        """Of a kept graph: as ``Inner.gradient``."""
        total = None
        for _, gradient in self.parts:
            total = torch.zeros_like(gradient) if total is None else total
            total += gradient.detach()
        assert total is not None
        return total

    def pull(self, along: Tensor, beside: Tensor, through: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Derivatives of ``along . gradient`` with respect to images and labels; ``beside . gradient``; and, if ``through``,
        the derivative with respect to the weights. Frees the graph."""
        product, at_seen, at_labels = along.new_zeros(()), [], []
        at_weights = torch.zeros_like(along) if through else None
        for leaves, gradient in self.parts:
            with torch.enable_grad():
                product_along, wanted = (along * gradient).sum(), leaves if through else leaves[:2]
                found = torch.autograd.grad(product_along, wanted, allow_unused=True)
            product += (beside * gradient.detach()).sum()
            at_seen.append(found[0])
            at_labels.append(torch.zeros_like(leaves[1]) if found[1] is None else found[1])
            if at_weights is not None and found[2] is not None:
                at_weights += found[2]
        together = torch.cat(at_seen)
        at_pixels = together if self.seen is self.pixels else torch.autograd.grad(self.seen, self.pixels, together)[0]
        return at_pixels, torch.cat(at_labels), product, at_weights


def norm(gradient: Tensor) -> Tensor:
    """Euclidean norm of a gradient (P,), scalar; differentiable at 0 too."""
    return (gradient.square().sum() + 1e-12).sqrt()
