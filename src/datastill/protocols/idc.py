"""The protocol of IDC and DREAM."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from datastill.core import Protocol
from datastill.functional.augment import STRATEGY, Strategy
from datastill.late import nn
from datastill.progress import Progress
from datastill.rng import RNG
from datastill.train import CutMixed, Examples, augmented, fit

DROPS, FACTOR = (2 / 3, 5 / 6), 0.2  # the learning rate falls to so much of it after these shares of the epochs


class IDC(Protocol):
    """The evaluation of Kim et al. 2022 (ICML, "Dataset Condensation via Efficient Synthetic-Data Parameterization") for
    small images, from their public code.

    A fresh network is trained with SGD and cross-entropy; the learning rate falls to a fifth after 2/3 and after 5/6 of the
    epochs. Images are augmented in turn (``idc_``, without cutting out), and half of the batches mixed by CutMix. The last
    weights are scored; the authors report the best of four validations.

    augment: a DSA or ``idc_`` strategy; leave out ``flip`` for digits. cutmix: probability that a batch is mixed.
    full_epochs: epochs when the full data are trained on (ours).
    """

    epochs: int = Field(default=1000, ge=1, le=10**6)
    lr: float = Field(default=0.01, gt=0.0, le=1e30)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=5e-4, ge=0.0)
    batch_size: int = Field(default=64, ge=1)
    augment: Strategy = "idc_" + STRATEGY.replace("cutout_", "")
    cutmix: float = Field(default=0.5, ge=0.0, le=1.0)
    full_epochs: int = Field(default=60, ge=1, le=10**6)

    def train(self, network: nn.Module, examples: Examples, rng: RNG, progress: Progress = Progress()) -> None:
        fit(network, CutMixed(augmented(examples, self.augment), self.cutmix), self.rates, rng, batch_size=self.batch_size,
            momentum=self.momentum, weight_decay=self.weight_decay, criterion=self.criterion, progress=progress,
            precision=self.precision, channels_last=self.channels_last)

    @property
    def rates(self) -> list[float]:
        """Learning rate of each epoch."""
        ends = [int(share * self.epochs) for share in DROPS]
        return [self.lr * FACTOR ** sum(epoch >= end for end in ends) for epoch in range(self.epochs)]

    def for_full_data(self) -> Self:
        return self.model_copy(update={"epochs": self.full_epochs})
