"""Train one network on examples, and measure it."""

from __future__ import annotations

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from typing import Protocol as Interface

from datastill.compute import Precision, autocast, computing
from datastill.data import Batch, Images
from datastill.errors import InputError, RunError
from datastill.foreign import blaming, is_foreign
from datastill.functional.augment import augment_images
from datastill.functional.augment_dc import augment_dc, is_dc
from datastill.functional.mixing import draw_cutmix, mixed, mixed_labels
from datastill.functional.sam import gap_direction, perturbation
from datastill.late import F, nn, no_grad, torch
from datastill.nets import Passes, couples_samples, origin, passes
from datastill.progress import Progress
from datastill.rng import RNG
from datastill.tables import counted

if TYPE_CHECKING:
    from torch import Tensor


class Examples(Interface):
    """Anything to train on: a synthetic set, a loaded one, real images, or images that are augmented, mixed or relabeled as
    they are drawn. If batches have an order of their own, ``walk(epoch, rng)`` gives those of an epoch. If ``slow`` is true,
    the next batch is drawn while a network is trained on one."""

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
        """The images at these rows (B,) as shown to a network in this epoch, and their labels.

        ``rng`` is the batch's own stream; without one nothing is drawn and the images are as stored. Labels are (B, ...), in
        the form the criterion takes.
        """
        ...


class Fixed:
    """A batch as examples, detached from its graph: networks train on the images as they are."""

    def __init__(self, batch: Batch) -> None:
        self.x, self.y = batch.x.detach(), batch.y.detach()

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
        rows = rows.to(self.x.device)
        return Batch(self.x[rows], self.y[rows])


def batches(order: Tensor, size: int, alone: bool) -> list[Tensor]:
    """``order`` (N,) in parts of ``size``, the last one shorter. If it is a single image and may not be ``alone``, it joins
    the part before. Raises InputError if there is none before."""
    parts = list(order.split(size))
    if alone or len(parts[-1]) > 1:
        return parts
    if len(parts) == 1 or size == 1:
        raise InputError(f"the network's batch normalization needs more than one value per channel, but "
                         f"{counted(len(order), 'image')} in batches of {size} leave it single images; use more images, "
                         "a larger batch_size, or a network without batch normalization (norm=instance)")
    return [*parts[:-2], torch.cat(parts[-2:])]


def single_fits(network: nn.Module, examples: Examples, size: int) -> bool:
    """Whether no batch of ``size`` of these examples is a single image that the network cannot be trained on. Only networks
    that may couple images are tried, in a copy."""
    cls = origin(network)
    couples = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    if (size > 1 and len(examples) % size != 1) or not (couples or (cls is not None and is_foreign(cls))):
        return True
    probe = copy.deepcopy(network).train()
    with torch.no_grad(), RNG("check").as_global():
        try:
            return bool(torch.isfinite(probe(examples.batch(torch.zeros(1, dtype=torch.long)).x)).all())
        except (ValueError, RuntimeError, InputError):
            return False


Augment = Callable[[Any, RNG], Any]
T = TypeVar("T")


def ahead(parts: Iterable[T]) -> Iterator[T]:
    """The same, each computed in another thread while the one before is used: reading images does not keep the network
    waiting."""
    source = iter(parts)
    with ThreadPoolExecutor(1, "datastill-ahead") as thread:
        coming = thread.submit(next, source, _END)
        while (part := coming.result()) is not _END:
            coming = thread.submit(next, source, _END)
            yield part  # type: ignore[misc]


_END = object()


class _Changed(ABC):
    """Examples whose batches are changed as they are drawn, with a stream of their own."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples
        self.slow = bool(getattr(examples, "slow", False))

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, rows: Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
        batch = self.examples.batch(rows, epoch, None if rng is None else rng("examples"))
        return batch if rng is None else self.change(batch, rng)

    @abstractmethod
    def change(self, batch: Batch, rng: RNG) -> Batch:
        """What is shown instead of a batch."""


class Augmented(_Changed):
    """Examples whose images are augmented as they are drawn; their labels stay."""

    def __init__(self, examples: Examples, augment: Augment) -> None:
        super().__init__(examples)
        self.augment = augment

    def change(self, batch: Batch, rng: RNG) -> Batch:
        return batch._replace(x=self.augment(batch.x, rng))


def augmented(examples: Examples, strategy: str) -> Examples:
    """The examples augmented by a strategy of DSA or of DC, each image with its own draw; unchanged for "none"."""
    augment = augment_dc if is_dc(strategy) else augment_images
    return examples if strategy == "none" else Augmented(examples, partial(augment, strategy=strategy))


class CutMixed(_Changed):
    """Examples of which each batch is mixed with itself, with this probability: a box of every image is exchanged for that
    of another one, and labels (B, K) are mixed by its area (CutMix, Yun et al. 2019)."""

    def __init__(self, examples: Examples, probability: float) -> None:
        super().__init__(examples)
        self.probability = probability

    def change(self, batch: Batch, rng: RNG) -> Batch:
        if float(rng("mix").uniform(1)) >= self.probability:
            return batch
        height, width = batch.x.shape[2:]
        mix = draw_cutmix(rng("box"), len(batch.x), (height, width))
        return Batch(mixed(batch.x, mix), mixed_labels(batch.y, mix))


LARGEST_WEIGHT = 1e6  # of a network that was trained; usual ones stay below 100

Optimizer = Literal["sgd", "adamw"]
Criterion = Callable[[Any, Any], Any]  # (logits (B, K), labels (B, ...)) -> scalar, summed over the images


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits (B, K) with class numbers (B,) or probabilities (B, K), summed over images; scalar, nats."""
    return F.cross_entropy(logits, y, reduction="sum")


def half_cosine(lr: float, epochs: int, warmup: float) -> list[float]:
    """Learning rate of each epoch: a linear rise to ``lr`` in the first ``warmup`` share of them, then a cosine to 0."""
    rise = round(warmup * epochs)
    fall = max(1, epochs - rise)
    return [lr * (epoch + 1) / (rise + 1) if epoch < rise else
            lr * 0.5 * (1 + math.cos(math.pi * (epoch - rise) / fall)) for epoch in range(epochs)]


class Sharpness(NamedTuple):
    """Sharpness-aware training by GSAM: how far to climb, how much of the surrogate gap to descend, ASAM's scaling."""

    rho: float
    alpha: float
    adaptive: bool


class Training:
    """A network being trained in place, one epoch per entry of ``rates`` (its learning rate).

    The loss of a batch is ``criterion``, summed over its images and divided by their number; by default cross-entropy.
    Momentum is AdamW's beta1. Unless ``decay_all``, biases and normalization weights do not decay. The optimizer is
    recreated (momentum is lost) before each epoch in ``restarts``. Every epoch goes through all examples in a fresh order.
    An epoch is a function of the network, the optimizer and its number: with ``state`` and ``restore`` training continues as
    if it had never stopped. What networks draw themselves (dropout) depends on the number too.

    precision: of the network's computations; its weights, the loss and the optimizer are float32. "tf32" is for GPUs that
    support it, "bfloat16" for the forward pass and what it saves for backward; both are faster and less exact.
    channels_last: the layout of images and convolutions in memory, faster on a GPU with "bfloat16"; changes only rounding.
    """

    def __init__(self, network: nn.Module, examples: Examples, rates: Sequence[float], rng: RNG, *, batch_size: int,
                 optimizer: Optimizer = "sgd", momentum: float = 0.9, weight_decay: float = 5e-4, decay_all: bool = True,
                 restarts: Sequence[int] = (), criterion: Criterion = cross_entropy, sharpness: Sharpness | None = None,
                 precision: Precision = "float32", channels_last: bool = False) -> None:
        self.sharpness, self.precision, self.channels_last = sharpness, precision, channels_last
        if channels_last:
            network.to(memory_format=torch.channels_last)
        self.network, self.examples, self.rates, self.rng = network, examples, rates, rng
        self.batch_size, self.restarts, self.criterion = batch_size, restarts, criterion
        self._new_optimizer = partial(_optimizer, optimizer, network, momentum=momentum, decay=weight_decay,
                                      decay_all=decay_all)
        self.updates = self._new_optimizer(rates[0] if rates else 0.0)
        self.epoch = 0  # epochs done
        self._alone = single_fits(network, examples, batch_size)
        self._how: Passes | None = None  # chosen when the first batch is seen

    def advance(self) -> float:
        """One more epoch. Returns the mean loss over its batches; raises RunError when it is not finite."""
        epoch, rate = self.epoch, self.rates[self.epoch]
        self.network.train()
        if epoch in self.restarts:
            self.updates = self._new_optimizer(rate)
        for group in self.updates.param_groups:
            group["lr"] = rate
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        with torch.enable_grad(), self.rng("inside", epoch).as_global(device), computing(device, self.precision), \
                blaming(("network", origin(self.network))):
            losses = self._pass(epoch)
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise RunError(f"training diverged: loss {mean} in epoch {epoch} at learning rate {rate:g}; lower the lr it is "
                           "trained with")
        self.epoch += 1
        return mean

    def _pass(self, epoch: int) -> list[Tensor]:
        """One pass over all examples. Returns the loss of each batch."""
        losses = []
        order = self.rng("order", epoch).permutation(len(self.examples))
        walk = getattr(self.examples, "walk", None)
        parts = walk(epoch, self.rng) if walk is not None else (
            self.examples.batch(rows, epoch, self.rng("augment", epoch, number))
            for number, rows in enumerate(batches(order, self.batch_size, self._alone)))
        for x, y in ahead(parts) if getattr(self.examples, "slow", False) else parts:
            self.updates.zero_grad(set_to_none=True)
            losses.append(self._accumulate(x, y))
            if self.sharpness is not None:
                self._flatten(x, y, self.sharpness)
            self.updates.step()
        return losses

    def _accumulate(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the gradient of the mean loss to the parameters, some images at a time. Returns the loss."""
        total = x.new_zeros(())
        size = self._passes(x).form.chunk if self._alone else len(x)
        for images, labels in zip(x.split(size), y.split(size), strict=True):
            loss = self.criterion(self._predict(images), labels)
            if not isinstance(loss, torch.Tensor) or loss.dim() or not loss.requires_grad:
                raise InputError(f"{getattr(self.criterion, '__qualname__', 'the criterion')} returned "
                                 f"{getattr(loss, 'shape', type(loss).__name__)}; expected a differentiable scalar tensor")
            loss = loss / len(x)
            loss.backward()
            total += loss.detach()
        return total

    def _passes(self, x: Tensor) -> Passes:
        """How batches pass through the network: as the first one did."""
        if self._how is None:
            with autocast(x.device, self.precision):
                number = len(self.rates) * -(-len(self.examples) // self.batch_size)
                self._how = passes(self.network, x, "weights", number)
        return self._how

    def _predict(self, x: Tensor) -> Tensor:
        """Logits in the type of x."""
        how = self._passes(x)
        seen = x.contiguous(memory_format=torch.channels_last) if self.channels_last else how.laid_out(x)
        with autocast(x.device, self.precision):
            return how.logits(seen).to(x.dtype)

    def _flatten(self, x: Tensor, y: Tensor, sharpness: Sharpness) -> None:
        """Replace the gradient by GSAM's direction: a second pass at perturbed weights."""
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        gradients = [p.grad.clone() for p in parameters if p.grad is not None]
        kept = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, step in zip(parameters, perturbation(kept, gradients, sharpness.rho, sharpness.adaptive), strict=True):
                p.add_(step)
        self.updates.zero_grad(set_to_none=True)
        self._accumulate(x, y)
        direction = gap_direction(gradients, [p.grad for p in parameters if p.grad is not None], sharpness.alpha)
        with torch.no_grad():
            for p, before, wanted in zip(parameters, kept, direction, strict=True):
                p.copy_(before)
                p.grad = wanted

    def check(self) -> None:
        """Check that the last update left finite weights, none of them absurdly large. Raises RunError."""
        largest = float(torch.stack([parameter.detach().abs().max() for parameter in self.network.parameters()]).max())
        if not largest <= LARGEST_WEIGHT:
            raise RunError(f"training diverged in the last epoch: a weight is {largest:.3g} at learning rate "
                           f"{self.rates[-1]:g}; lower the lr it is trained with")

    def state(self) -> dict[str, Any]:
        """Everything that changes, as tensors and plain values."""
        return {"epoch": self.epoch, "network": self.network.state_dict(), "updates": self.updates.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.epoch = state["epoch"]
        self.network.load_state_dict(state["network"])
        self.updates.load_state_dict(state["updates"])


def extrapolated(measure: Callable[[int], float], images: int, longest: float, first: int = 16) -> float:
    """The seconds that ``measure(images)`` would give, which grow with the number of images: from ever more of them, until
    the next try would take more than ``longest`` seconds."""
    tried = min(first, images)
    while True:
        began = time.perf_counter()
        seconds = measure(tried)
        if tried == images or 4 * (time.perf_counter() - began) > longest:
            return seconds * images / tried
        tried = min(4 * tried, images)


def fit(network: nn.Module, examples: Examples, rates: Sequence[float], rng: RNG, *,
        progress: Progress = Progress(), **how: Any) -> None:
    """Train to the end with ``Training``, whose options these are; ``progress`` is told of every epoch. Raises RunError if
    it diverges."""
    training = Training(network, examples, rates, rng, **how)
    for epoch in range(len(rates)):
        training.advance()
        progress.tell(epoch + 1, len(rates))
    if rates:
        training.check()


def _optimizer(name: Optimizer, network: nn.Module, lr: float, momentum: float, decay: float,
               decay_all: bool) -> torch.optim.Optimizer:
    weights: Any = network.parameters()
    if not decay_all:
        some = list(weights)
        weights = [{"params": [p for p in some if p.dim() > 1]},
                   {"params": [p for p in some if p.dim() <= 1], "weight_decay": 0.0}]
    if name == "sgd":
        return torch.optim.SGD(weights, lr, momentum=momentum, weight_decay=decay)
    return torch.optim.AdamW(weights, lr, betas=(momentum, 0.999), weight_decay=decay)


def accuracies(network: nn.Module, images: Images) -> Tensor:
    """Share of correct predictions in each class, (K,) float64; NaN for a class without images. Raises RunError."""
    return right_of_class(predict(network, images), images)


def right_of_class(logits: Tensor, images: Images) -> Tensor:
    """The same from the logits (N, K) of all images."""
    targets, classes = images.targets.cpu(), len(images.classes)
    right = torch.bincount(targets[logits.argmax(1) == targets], minlength=classes).double()
    return right / torch.bincount(targets, minlength=classes)


def overall(shares: Tensor, images: Images) -> float:
    """The share of correct predictions over all images, from those of each class (K,)."""
    counts = torch.bincount(images.targets.cpu(), minlength=len(shares))
    return float((shares.nan_to_num() * counts).sum() / counts.sum())


@no_grad
def predict(network: nn.Module, images: Images) -> Tensor:
    """Logits (N, K) of all images, in evaluation mode; on the CPU.

    Raises RunError if they are not finite, since there is no accuracy then.
    """
    network.eval()
    found = []
    one = images.batch(torch.zeros(1, dtype=torch.long)).x
    with computing(images.device):
        how = passes(network, one.expand(min(1000, len(images)), -1, -1, -1), "features", -(-len(images) // 1000))
        for rows in batches(torch.arange(len(images)), how.form.chunk, not couples_samples(network)):
            logits = how.logits(how.laid_out(images.batch(rows).x))
            if not bool(torch.isfinite(logits).all()):
                raise RunError("training diverged: the network's outputs are not finite; lower the lr it is trained with")
            found.append(logits.cpu())
    return torch.cat(found)
