"""What the protocols of DC and of trajectory matching share."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from datastill.core import Protocol
from datastill.errors import InputError
from datastill.functional.augment_dc import StudentStrategy
from datastill.late import nn
from datastill.progress import Progress
from datastill.registry import kind
from datastill.rng import RNG
from datastill.train import Examples, augmented, fit

Rate = Annotated[float, Field(gt=0.0, le=1e30)]


class SGDTraining(Protocol):
    """A fresh network is trained with SGD and cross-entropy; the last weights are scored.

    lr: a learning rate, or "learned": the one that was learned with the set.
    augment: a DSA strategy (leave out ``flip`` for digits): one operation per batch, with parameters for each image; "dsa"
        for all operations; "none". Or one of DC's (``dc_crop_scale_rotate``, for digits; ``dc_crop_noise``): one operation
        for each image.
    epochs: E means E + 1 passes; after epoch index E // 2 + 1 the learning rate is multiplied by 0.1 once and the optimizer
        is recreated, so its momentum is lost. 0 uses the papers' number: 300 without augmentation, 1000 with.
    full_epochs: E when the full data are trained on as an upper bound (ours; the papers' bounds come
        from other recipes).
    """

    epochs: int = Field(default=0, ge=0, le=10**6)
    lr: Rate | Literal["learned"] = 0.01
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=5e-4, ge=0.0)
    batch_size: int = Field(default=256, ge=1)
    augment: StudentStrategy = "dsa"
    full_epochs: int = Field(default=60, ge=1, le=10**6)

    def schedule(self) -> tuple[list[float], list[int]]:
        """(learning rate of each epoch, epochs that begin with a new optimizer)."""
        lr = self.for_set(None).lr
        assert lr != "learned"
        epochs = self.epochs or (300 if self.augment == "none" else 1000)
        drop = epochs // 2 + 2  # first epoch at the lower learning rate
        return [lr if epoch < drop else lr * 0.1 for epoch in range(epochs + 1)], [drop]

    def train(self, network: nn.Module, examples: Examples, rng: RNG, progress: Progress = Progress()) -> None:
        rates, restarts = self.schedule()
        fit(network, augmented(examples, self.augment), rates, rng, batch_size=self.batch_size, momentum=self.momentum,
            weight_decay=self.weight_decay, restarts=restarts, criterion=self.criterion, progress=progress,
            precision=self.precision, channels_last=self.channels_last)

    def for_set(self, lr: float | None) -> Self:
        if self.lr != "learned":
            return self
        if lr is None:
            raise InputError(f"protocol {kind(self)} uses the learning rate learned with a set, but this set has none; give "
                             "one, as in lr=0.01")
        return self.model_copy(update={"lr": lr})

    def for_full_data(self) -> Self:
        return self.model_copy(update={"epochs": self.full_epochs})
