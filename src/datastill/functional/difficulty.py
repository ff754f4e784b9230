"""How hard single images are for a network, each score (N,): large for hard ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datastill.functional.fused import using_torch
from datastill.late import F, nn, no_grad, torch

if TYPE_CHECKING:
    from torch import Tensor


def gradient_norms(network: nn.Module, x: Tensor, y: Tensor, chunk: int = 32,
                   outputs: Sequence[int] | None = None) -> Tensor:
    """Norm of the gradient of each image's cross-entropy with respect to all weights: GraNd (Paul et al. 2021, NeurIPS,
    "Deep Learning on a Data Diet"), GraDN for distilled images (Wang et al. 2024).

    x: (N, C, H, W). y: labels (N,), or probabilities (N, K). chunk: images whose gradients are in memory at once. outputs:
    the K outputs of the network that are these classes, by default all. The network is used in evaluation mode, so that
    images do not depend on each other, and left as it was. Example::

        scores = gradient_norms(network, images.batch(rows).x, images.targets[rows])
    """
    weights = {name: value.detach() for name, value in network.named_parameters()}
    fixed = dict(network.named_buffers())

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(network, {**fixed, **weights}, (image[None],))
        return F.cross_entropy(logits if outputs is None else logits[:, outputs], label[None])

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0), randomness="same")
    training = network.training
    network.eval()
    try:
        with using_torch():
            parts = [_norms(each(weights, images, labels))
                     for images, labels in zip(x.split(chunk), y.split(chunk), strict=True)]
    finally:
        network.train(training)
    return torch.cat(parts) if parts else x.new_zeros(0)


def _norms(gradients: dict[str, Tensor]) -> Tensor:
    squares = [one.detach().flatten(1).square().sum(1) for one in gradients.values()]
    return torch.stack(squares).sum(0).sqrt()


@no_grad
def error_norms(logits: Tensor, y: Tensor) -> Tensor:
    """EL2N (Paul et al. 2021): distance of the predicted probabilities, of logits (N, K), from the labels (N,) or (N, K)."""
    wanted = F.one_hot(y, logits.shape[1]).to(logits) if y.dim() == 1 else y
    return (logits.softmax(1) - wanted).norm(dim=1)


@no_grad
def misclassified(logits: Tensor, y: Tensor) -> Tensor:
    """1 where the largest of the logits (N, K), or (M, N, K) of several networks, is not that of the label, else 0; the mean
    over networks: the probability of being misclassified (Wang et al. 2024)."""
    labels = y if y.dim() == 1 else y.argmax(1)
    wrong = (logits.argmax(-1) != labels).to(logits.dtype)
    return wrong if wrong.dim() == 1 else wrong.mean(0)


@no_grad
def forgetting(right: Tensor) -> Tensor:
    """How often an image was right after one epoch and wrong after the next (Toneva et al. 2019, ICLR), from ``right``
    (E, N), whether it was after each epoch. Images that were never right count as E, more than any other."""
    events = (right[:-1] & ~right[1:]).sum(0)
    return torch.where(right.any(0), events, torch.full_like(events, len(right)))
