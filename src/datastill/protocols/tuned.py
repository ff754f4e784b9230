"""Students of every architecture that learn from few images: one recipe per family of networks."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from datastill.core import Protocol
from datastill.errors import InputError
from datastill.functional.augment import STRATEGY, Strategy
from datastill.late import nn, torch
from datastill.nets import Architecture
from datastill.progress import Progress
from datastill.registry import kind
from datastill.rng import RNG
from datastill.train import Examples, Optimizer, augmented, batches, fit, half_cosine, single_fits

OTHERS: dict[str, Any] = {"optimizer": "adamw", "lr": 0.001, "warmup": 0.1, "statistics": "running"}
RECIPES: dict[str, dict[str, Any]] = {
    "convnet": {"lr": 0.003},
    "convnet, batch norm": {"lr": 0.003, "statistics": "recomputed"},
    "mlp": {"optimizer": "sgd", "lr": 0.03},
    "lenet": {"lr": 0.003},
    "alexnet": {"lr": 0.001},
    "vgg11": {"optimizer": "sgd", "lr": 0.03},
    "resnet18": {"lr": 0.003},
    "vit": {"lr": 0.001},
}


class Tuned(Protocol):
    """A recipe for each family of networks (ours): with ``dc``'s single learning rate some stay at chance on few images.

    Cross-entropy, a linear warm-up to ``lr``, then a cosine to 0; the last weights are scored. Settings left at "none"
    are those found for the student's family on random real images of CIFAR-10, scored on validation images
    (docs/results/students.md); for another network find them with ``datastill tune``. Not to be compared with published
    numbers, which come from ``dc`` and its variants.

    warmup: share of the epochs in which the learning rate rises.
    statistics: of batch normalization when scoring: the running means of training, or "recomputed" over the training images
        without augmentation.
    """

    epochs: int = Field(default=300, ge=1, le=10**6)
    optimizer: Optimizer | None = None
    lr: float | None = Field(default=None, gt=0.0, le=1e30)
    warmup: float | None = Field(default=None, ge=0.0, lt=1.0)
    statistics: Literal["running", "recomputed"] | None = None
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=5e-4, ge=0.0)
    batch_size: int = Field(default=256, ge=1)
    augment: Strategy = STRATEGY
    full_epochs: int = Field(default=60, ge=1, le=10**6)

    def for_network(self, network: Architecture) -> Tuned:
        family = kind(network)
        recipe = RECIPES.get(f"{family}, batch norm") if getattr(network, "norm", "") == "batch" else None
        found = {**OTHERS, **RECIPES.get(family, {}), **(recipe or {})}
        return self.model_copy(update={name: value for name, value in found.items() if getattr(self, name) is None})

    def for_full_data(self) -> Tuned:
        return self.model_copy(update={"epochs": self.full_epochs})

    def train(self, network: nn.Module, examples: Examples, rng: RNG, progress: Progress = Progress()) -> None:
        if self.optimizer is None or self.lr is None or self.warmup is None:
            raise InputError("tuned: the recipe depends on the network; call for_network(architecture) first")
        fit(network, augmented(examples, self.augment), half_cosine(self.lr, self.epochs, self.warmup), rng,
            batch_size=self.batch_size, optimizer=self.optimizer, momentum=self.momentum, weight_decay=self.weight_decay,
            criterion=self.criterion, progress=progress, precision=self.precision, channels_last=self.channels_last)
        if self.statistics == "recomputed":
            from torch.optim.swa_utils import update_bn

            alone = single_fits(network, examples, self.batch_size)
            parts = batches(torch.arange(len(examples)), self.batch_size, alone)
            update_bn((examples.batch(rows).x for rows in parts), network)
