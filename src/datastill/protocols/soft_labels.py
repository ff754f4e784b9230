"""Students that learn what teachers say of every view of an image: the protocols of SRe2L, SC-DD, RDED, FADRM."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from datastill.core import Method, Protocol
from datastill.errors import InputError
from datastill.functional.labels import kl
from datastill.label_store import Labels, Stored, make_labels, name_of
from datastill.late import nn
from datastill.nets import Architecture
from datastill.progress import Progress
from datastill.registry import kind
from datastill.relabel import Online, Relabel, Schedule, Views
from datastill.rng import RNG
from datastill.teachers import Context, Pool, Teachers
from datastill.train import Examples, Optimizer, cross_entropy, fit

if TYPE_CHECKING:
    from torch import Tensor

ADAMW: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01}
# Learning rates of RDED by student; others have 1e-3.
RDED_RATES = {"vgg11": 5e-4, "alexnet": 1e-4, "vit": 1e-4, "efficientnet_b0": 2e-3, "mobilenet_v2": 2.5e-3, "swin": 1e-4}


class SoftLabels(Protocol):
    """A fresh network learns the predictions of frozen teachers for augmented and mixed images; its last weights are scored.

    The loss is KL(softmax(teacher / T) || softmax(student / T)), mean over a batch. The learning rate falls as
    0.5 (1 + cos(pi epoch / (stretch * epochs))), after a linear rise over ``warmup`` epochs.

    pool: the teachers, by default those of the set's method. labels: "soft"; "hard": the labels of the set, mixed like the
        images, with cross-entropy (the control: everything else stays).
    views: what students see. relabel: who labels it, and whether labels are stored.
    temperature: T. t_squared: whether the loss is multiplied by T^2 (Hinton et al. 2015; in this family only the scripts for
        Tiny-ImageNet do). stretch: above 1 the learning rate does not reach 0. lr: none: RDED's for the student's network.
    decay_all: whether biases and normalization weights decay too.
    best: the authors' rules of choosing, reported beside the score, never instead of it: "last_fifth": the best of the
        accuracies after every tenth epoch of the last fifth, on the images that are scored (RDED); "prefixes": the largest
        running mean over any number of batches of 64 of the scored images after the first, every tenth further and the last
        epoch (SC-DD's script for CIFAR).

    The scripts of SRe2L for ImageNet, of FADRM and of CV-DD add up the gradients of two halves of a batch, so that batch
    normalization sees halves; here it sees whole batches.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "sre2l": {**ADAMW, "batch_size": 1024, "relabel": {"store": True}},
        "sre2l_tiny": {"optimizer": "sgd", "lr": 0.2, "weight_decay": 1e-4, "decay_all": True, "epochs": 100, "warmup": 5,
                       "batch_size": 256, "t_squared": True, "views": {"mix": "none"}},
        "sre2l_cifar": {**ADAMW, "decay_all": True, "epochs": 400, "batch_size": 128, "temperature": 30.0,
                        "views": {"window": "shift", "mix": "mixup", "beta": 0.8}, "relabel": {"teacher": "batch"}},
        "scdd": {**ADAMW, "batch_size": 64},
        "scdd_cifar": {**ADAMW, "decay_all": True, "batch_size": 64, "epochs": 200, "stretch": 3.0, "temperature": 30.0,
                       "best": "prefixes", "views": {"window": "shift", "mix": "mixup", "beta": 0.8},
                       "relabel": {"teacher": "batch"}},
        "rded": {**ADAMW, "lr": None, "batch_size": 100, "stretch": 2.0, "best": "last_fifth"},
        "fadrm": {**ADAMW, "batch_size": 16, "stretch": 2.0, "relabel": {"store": True, "teacher": "batch"}},
    }

    pool: Pool | None = None
    labels: Literal["soft", "hard"] = "soft"
    views: Views = Views()
    relabel: Relabel = Relabel()
    temperature: float = Field(default=20.0, ge=0.01, le=1e6)
    t_squared: bool = False
    epochs: int = Field(default=300, ge=1, le=10**6)
    batch_size: int = Field(default=100, ge=1)
    optimizer: Optimizer = "adamw"
    lr: float | None = Field(default=1e-3, gt=0.0, le=1e30)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    decay_all: bool = False
    stretch: float = Field(default=1.0, ge=1.0, le=1e6)
    warmup: int = Field(default=0, ge=0, le=10**6)
    best: Literal["none", "last_fifth", "prefixes"] = "none"
    full_epochs: int = Field(default=60, ge=1, le=10**6)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup: {self.warmup} epochs of {self.epochs}; expected fewer")
        return self

    def for_network(self, network: Architecture) -> Self:
        if self.lr is not None:
            return self
        name = getattr(network, "model", kind(network))
        rate = next((rate for start, rate in RDED_RATES.items() if name.startswith(start)), 1e-3)
        return self.model_copy(update={"lr": rate})

    def for_method(self, method: Method, network: Architecture) -> Self:
        if self.labels == "hard":
            return self
        pools = method.pools(network) if self.pool is None else (self.pool.for_network(network),)
        return self if not pools else self.model_copy(update={"pool": pools[0]})

    def for_full_data(self) -> Self:
        """For the full data: with its own labels, for fewer epochs."""
        return self.model_copy(update={"epochs": self.full_epochs, "labels": "hard", "pool": None, "best": "none"})

    def pools(self, network: Architecture) -> tuple[Pool, ...]:
        return () if self.pool is None or self.labels == "hard" else (self.pool.for_network(network),)

    def check(self, context: Context, network: Architecture) -> None:
        if not self.relabel.store and (self.relabel.epochs or self.relabel.top):
            raise InputError("relabel.epochs and relabel.top say what is stored of labels, but none are; set "
                             "relabel.store=true")
        if self.relabel.rest == "smallest" and self.relabel.top < 2:
            why = "makes all logits of an image equal" if self.relabel.top else "stores all logits, so there is no rest"
            raise InputError(f"relabel.rest=smallest with relabel.top={self.relabel.top} {why}; use a larger top, or "
                             "rest=none")
        if self.views.strips > (side := min(context.real.shape[1:])):
            raise InputError(f"views.strips: {self.views.strips} strips of images of {side} pixels; use {side} or fewer")
        if self.labels == "hard":
            return
        if not (pools := self.pools(network)):
            raise InputError(f"protocol {kind(self)} needs teachers, and the set's method has none; name them, as in "
                             "protocol.pool=classifier, or take protocol.labels=hard")
        pools[0].check(context, {"class_logits"})
        if self.relabel.top > len(context.real.classes):
            raise InputError(f"relabel.top: {self.relabel.top} logits of {len(context.real.classes)} classes; use 0 for all")
        if self.relabel.epochs > self.epochs:
            raise InputError(f"relabel.epochs: labels of {self.relabel.epochs} epochs, but students train for "
                             f"{self.epochs}; use 0 for as many")

    @property
    def schedule(self) -> Schedule:
        """What is shown when."""
        return Schedule(self.views, self.relabel, self.batch_size, self.epochs)

    def shown(self, examples: Examples, context: Context, network: Architecture, rng: RNG, folder: Path | None = None,
              images: str = "") -> Examples:
        pools = self.pools(network)
        if not pools:
            return Online(examples, self.schedule, ())
        if folder is None or not self.relabel.store or context.dry_run:
            return Online(examples, self.schedule, list(Teachers(pools[0], context)))
        return Stored(examples, self.made(folder, examples, context, network, rng, images))

    def made(self, folder: Path, examples: Examples, context: Context, network: Architecture, rng: RNG,
             images: str) -> Labels:
        """The stored labels of a set whose images have a checksum, in this folder, made if they are missing."""
        (pool,) = self.pools(network)
        teachers = Teachers(pool, context)
        place = folder / name_of(images, self.schedule, pool, teachers, rng)
        return make_labels(place, images, examples, self.schedule, pool, teachers, rng, context.progress)

    def train(self, network: nn.Module, examples: Examples, rng: RNG, progress: Progress = Progress()) -> None:
        if self.lr is None:
            raise InputError(f"{kind(self)}: the learning rate depends on the network; call for_network(architecture) first")
        if not hasattr(examples, "walk"):
            if self.labels == "soft":
                raise InputError(f"protocol {kind(self)} trains on images labeled by teachers; use ds.score or ds.evaluate "
                                 "with train=, or protocol.labels=hard")
            examples = Online(examples, self.schedule, ())
        fit(network, examples, self._rates(self.lr), rng, batch_size=self.batch_size, optimizer=self.optimizer,
            momentum=self.momentum, weight_decay=self.weight_decay, decay_all=self.decay_all, criterion=self.criterion,
            progress=progress, precision=self.precision, channels_last=self.channels_last)

    def _rates(self, lr: float) -> list[float]:
        """The learning rate of every epoch."""
        length = self.stretch * (self.epochs - self.warmup)
        return [lr * (epoch + 1) / (self.warmup + 1) if epoch < self.warmup else
                lr * 0.5 * (1 + math.cos(math.pi * (epoch - self.warmup) / length)) for epoch in range(self.epochs)]

    def criterion(self, logits: Tensor, y: Tensor) -> Tensor:
        if self.labels == "hard":
            return cross_entropy(logits, y)
        return kl(logits, y, self.temperature) * (self.temperature**2 if self.t_squared else 1.0)

    @property
    def watched(self) -> Mapping[int, str]:
        if self.best == "none":
            return {}
        first, turn = (1, 1) if self.best == "prefixes" else (math.floor(0.8 * self.epochs) + 1, 0)
        return {epoch: self.best for epoch in range(first, self.epochs + 1) if epoch % 10 == turn or epoch == self.epochs}

    def controls(self) -> dict[str, Protocol]:
        hard = self.model_copy(update={"labels": "hard", "pool": None, "best": "none", "relabel": Relabel()})
        found: dict[str, Protocol] = {"hard labels": hard} if self.labels == "soft" else {}
        if self.labels == "soft" and self.views.mix != "cutmix":
            views = self.views.model_copy(update={"mix": "cutmix", "beta": 1.0})
            found["soft labels and CutMix"] = self.model_copy(update={"views": views, "best": "none"})
        elif self.labels == "soft":
            views = self.views.model_copy(update={"mix": "none"})
            found["soft labels without CutMix"] = self.model_copy(update={"views": views, "best": "none"})
        return found
