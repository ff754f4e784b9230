"""How hard single images are for a network, each score (N,): large for hard ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from datastill.errors import InputError
from datastill.functional.distances import check_images
from datastill.functional.fused import using_torch
from datastill.late import F, nn, no_grad, torch
from datastill.tables import shown

if TYPE_CHECKING:
    from torch import Tensor


def gradient_norms(network: nn.Module, x: Tensor, y: Tensor, chunk: int = 32,
                   outputs: Sequence[int] | None = None) -> Tensor:
    """Norm of the gradient of each image's cross-entropy with respect to all weights: GraNd (Paul et al. 2021, NeurIPS,
    "Deep Learning on a Data Diet"), GraDN for distilled images (Wang et al. 2024).

    x: (N, C, H, W). y: labels (N,), or probabilities (N, K). chunk: images whose gradients are in memory at once. outputs:
    the K outputs of the network that are these classes, by default all. The network is used in evaluation mode, so that
    images do not depend on each other, and left as it was. Raises InputError. Example::

        scores = gradient_norms(network, images.batch(rows).x, images.targets[rows])
    """
    if isinstance(x, torch.Tensor) and not len(x):
        return x.new_zeros(0)
    check_images(x, "gradient_norms")
    _check_labels(y, len(x), None, "gradient_norms")
    if chunk < 1:
        raise InputError(f"gradient_norms: expected a chunk of at least 1 image, got {chunk}")
    if not any(True for _ in network.parameters()):
        raise InputError("gradient_norms: the network has no parameters, so there are no gradients of weights")
    with torch.no_grad(), _evaluated(network):
        count = network(x[:1]).shape[1]
    if outputs is not None and (not len(outputs) or min(outputs) < 0 or max(outputs) >= count):
        raise InputError(f"gradient_norms: expected outputs of the network, from 0 to {count - 1}, got {shown(outputs)}")
    _check_labels(y, len(x), count if outputs is None else len(outputs), "gradient_norms")
    weights = {name: value.detach() for name, value in network.named_parameters()}
    fixed = dict(network.named_buffers())

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(network, {**fixed, **weights}, (image[None],))
        return F.cross_entropy(logits if outputs is None else logits[:, outputs], label[None])

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0), randomness="same")
    with using_torch(), _evaluated(network):
        parts = [_norms(each(weights, images, labels))
                 for images, labels in zip(x.split(chunk), y.split(chunk), strict=True)]
    return torch.cat(parts)


@contextmanager
def _evaluated(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode inside the block."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _check_labels(y: Tensor, count: int, classes: int | None, what: str) -> None:
    """Check that y are labels (count,) of so many classes, or probabilities (count, classes). Raises InputError."""
    of = "K" if classes is None else str(classes)
    right = isinstance(y, torch.Tensor) and y.dim() in (1, 2) and len(y) == count and y.is_floating_point() == (y.dim() == 2)
    if not right or (y.dim() == 2 and classes is not None and y.shape[1] != classes):
        raise InputError(f"{what}: expected class numbers ({count},) or probabilities ({count}, {of}), got {shown(y)}")
    if y.dim() == 1 and classes is not None and len(y) and (int(y.min()) < 0 or int(y.max()) >= classes):
        raise InputError(f"{what}: labels range from {int(y.min())} to {int(y.max())}; expected 0 to {classes - 1}")


def _check_logits(logits: Tensor, dims: tuple[int, ...], what: str) -> None:
    if not isinstance(logits, torch.Tensor) or logits.dim() not in dims or not logits.is_floating_point():
        raise InputError(f"{what}: expected logits (N, K), got {shown(logits)}")
    if not bool(torch.isfinite(logits).all()):
        raise InputError(f"{what}: logits are not finite; the network's training diverged")


def _norms(gradients: dict[str, Tensor]) -> Tensor:
    squares = [one.detach().flatten(1).square().sum(1) for one in gradients.values()]
    return torch.stack(squares).sum(0).sqrt()


@no_grad
def error_norms(logits: Tensor, y: Tensor) -> Tensor:
    """EL2N (Paul et al. 2021): distance of the predicted probabilities, of logits (N, K), from the labels (N,) or (N, K).
    Raises InputError."""
    _check_logits(logits, (2,), "error_norms")
    _check_labels(y, logits.shape[0], logits.shape[1], "error_norms")
    wanted = F.one_hot(y, logits.shape[1]).to(logits) if y.dim() == 1 else y
    return (logits.softmax(1) - wanted).norm(dim=1)


@no_grad
def misclassified(logits: Tensor, y: Tensor) -> Tensor:
    """1 where the largest of the logits (N, K), or (M, N, K) of several networks, is not that of the label, else 0; the mean
    over networks: the probability of being misclassified (Wang et al. 2024). Labels (N,) or (N, K). Raises InputError."""
    _check_logits(logits, (2, 3), "misclassified")
    _check_labels(y, logits.shape[-2], logits.shape[-1], "misclassified")
    labels = y if y.dim() == 1 else y.argmax(1)
    wrong = (logits.argmax(-1) != labels).to(logits.dtype)
    return wrong if wrong.dim() == 1 else wrong.mean(0)


@no_grad
def forgetting(right: Tensor) -> Tensor:
    """How often an image was right after one epoch and wrong after the next (Toneva et al. 2019, ICLR), from ``right``
    (E, N), whether it was after each epoch. Images that were never right count as E, more than any other.
    Raises InputError."""
    if not isinstance(right, torch.Tensor) or right.dim() != 2 or right.dtype != torch.bool or not len(right):
        raise InputError(f"forgetting: expected whether each image was right after each epoch (E, N), got {shown(right)}")
    events = (right[:-1] & ~right[1:]).sum(0)
    return torch.where(right.any(0), events, torch.full_like(events, len(right)))
