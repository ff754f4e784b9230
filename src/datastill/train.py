"""Train one network on examples, and measure it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal
from typing import Protocol as Interface

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datastill.data import Batch, Images
from datastill.errors import RunError
from datastill.nets import chunk_size
from datastill.rng import RNG


class Examples(Interface):
    """Anything to train on: a synthetic set, a loaded one, real images."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> Batch: ...


class Fixed:
    """A batch as examples, without the graph that leads to it: networks train on the images as they are."""

    def __init__(self, batch: Batch) -> None:
        self.x, self.y = batch.x.detach(), batch.y.detach()

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> Batch:
        rows = indices.to(self.x.device)
        return Batch(self.x[rows], self.y[rows])


Optimiser = Literal["sgd", "adamw"]
Augment = Callable[[Tensor, RNG], Tensor]
Watch = Callable[[int, int], None]  # (epochs done, of how many)


def half_cosine(lr: float, epochs: int, warmup: float) -> list[float]:
    """Step size of each epoch: a linear rise to ``lr`` in the first ``warmup`` share of them, then a cosine towards 0."""
    rise = round(warmup * epochs)
    fall = max(1, epochs - rise)
    return [lr * (epoch + 1) / (rise + 1) if epoch < rise else
            lr * 0.5 * (1 + math.cos(math.pi * (epoch - rise) / fall)) for epoch in range(epochs)]


def fit(network: nn.Module, examples: Examples, rates: Sequence[float], rng: RNG, *, batch_size: int,
        optimiser: Optimiser = "sgd", momentum: float = 0.9, weight_decay: float = 5e-4, restarts: Sequence[int] = (),
        augment: Augment | None = None, watch: Watch | None = None) -> None:
    """Train in place with cross-entropy, one epoch per entry of ``rates`` (its step size); momentum is AdamW's beta1.

    The optimiser is made anew (momentum forgotten) before each epoch in ``restarts``. Every epoch goes through all
    examples in a fresh order. Raises RunError when the loss is not finite.
    """
    network.train()
    count, size = len(examples), 0
    for epoch, rate in enumerate(rates):
        if epoch == 0 or epoch in restarts:
            updates = _optimiser(optimiser, network, rate, momentum, weight_decay)
        for group in updates.param_groups:
            group["lr"] = rate
        order = rng("order", epoch).permutation(count)
        for number, rows in enumerate(order.split(batch_size)):
            batch = examples.batch(rows)
            x = batch.x if augment is None else augment(batch.x, rng("augment", epoch, number))
            updates.zero_grad(set_to_none=True)
            size = size or chunk_size(network, x)
            loss = _accumulate(network, x, batch.y, size)
            updates.step()
        if not torch.isfinite(loss):
            raise RunError(f"training diverged: loss {loss.item()} in epoch {epoch} at step size {rate:g}; "
                           "lower the protocol's lr")
        if watch is not None:
            watch(epoch + 1, len(rates))
    if not all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters()):
        raise RunError(f"training diverged in the last epoch at step size {rates[-1]:g}; lower the protocol's lr")


def _optimiser(name: Optimiser, network: nn.Module, lr: float, momentum: float, decay: float) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(network.parameters(), lr, momentum=momentum, weight_decay=decay)
    return torch.optim.AdamW(network.parameters(), lr, betas=(momentum, 0.999), weight_decay=decay)


def _accumulate(network: nn.Module, x: Tensor, y: Tensor, size: int) -> Tensor:
    """Add the gradient of the mean cross-entropy to the parameters, ``size`` images at a time. Returns the loss."""
    total = x.new_zeros(())
    for images, labels in zip(x.split(size), y.split(size), strict=True):
        loss = F.cross_entropy(network(images), labels, reduction="sum") / len(x)
        loss.backward()
        total += loss.detach()
    return total


@torch.no_grad()
def accuracies(network: nn.Module, images: Images) -> Tensor:
    """Share of right predictions in each class, (K,) float64, in evaluation mode; NaN for a class without images.

    Raises RunError when the network's outputs are not finite: that is no accuracy.
    """
    network.eval()
    right = torch.zeros(len(images.classes), dtype=torch.float64)
    one = images.batch(torch.zeros(1, dtype=torch.long)).x
    for rows in torch.arange(len(images)).split(chunk_size(network, one.expand(1000, -1, -1, -1))):
        batch = images.batch(rows)
        logits = network(batch.x)
        if not bool(torch.isfinite(logits).all()):
            raise RunError("training diverged: the student's outputs are not finite; lower the protocol's lr")
        hit = logits.argmax(1) == batch.y.argmax(1)
        right += batch.y[hit].sum(0).cpu().double()
    return right / torch.bincount(images.targets.cpu(), minlength=len(images.classes))
