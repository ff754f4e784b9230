"""The protocol of DC, DSA, DM, CAFE and most later papers."""

from __future__ import annotations

from functools import partial

from pydantic import Field
from torch import nn

from datastill.core import Protocol
from datastill.functional.augment import Strategy, augment_images
from datastill.rng import RNG
from datastill.train import Examples, Watch, fit


class DC(Protocol):
    """The evaluation of Zhao et al. 2021, its quirks included; its options are the variants of later papers.

    A fresh network is trained with SGD and cross-entropy. Quirks kept on purpose: ``epochs`` E means E + 1 passes; after
    epoch index E // 2 + 1 the step size is multiplied by 0.1 once, and the optimiser is made anew then, so its momentum is
    forgotten. The score is of the last weights.

    augment: a DSA strategy (leave out ``flip`` for digits): one operation a batch, with parameters for each image; "dsa"
        for all operations; "none".
    epochs: 0 takes the papers' number: 300 without augmentation, 1000 with.
    full_epochs: E when the full data are trained on as an upper bound (ours; the papers' bounds come
        from other recipes).
    """

    epochs: int = Field(default=0, ge=0, le=10**6)
    lr: float = Field(default=0.01, gt=0.0, le=1e30)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=5e-4, ge=0.0)
    batch_size: int = Field(default=256, ge=1)
    augment: Strategy = "dsa"
    full_epochs: int = Field(default=60, ge=1, le=10**6)

    def schedule(self) -> tuple[list[float], list[int]]:
        """(step size of each epoch, epochs that begin with a new optimiser)."""
        epochs = self.epochs or (300 if self.augment == "none" else 1000)
        drop = epochs // 2 + 2  # first epoch at the lower step size
        return [self.lr if epoch < drop else self.lr * 0.1 for epoch in range(epochs + 1)], [drop]

    def train(self, network: nn.Module, examples: Examples, rng: RNG, watch: Watch | None = None) -> None:
        rates, restarts = self.schedule()
        fit(network, examples, rates, rng, batch_size=self.batch_size, momentum=self.momentum,
            weight_decay=self.weight_decay, restarts=restarts,
            augment=None if self.augment == "none" else partial(augment_images, strategy=self.augment),
            watch=watch)

    def for_full_data(self) -> DC:
        return self.model_copy(update={"epochs": self.full_epochs})
