"""Networks that are trained on real images while they are matched on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from datastill.data import Batch, Images
from datastill.description import Description
from datastill.functional.augment import Strategy
from datastill.late import nn
from datastill.nets import couples_samples
from datastill.rng import RNG
from datastill.train import Criterion, CutMixed, Training, augmented, batches, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


class RealTraining(Description):
    """How a network is trained on real images between two matches.

    images: how many it sees each time, drawn without replacement. before: epochs of all images before the first match.
    batch_size, lr, momentum, weight_decay: of SGD. augment: a DSA or ``idc_`` strategy, each image with its own draw.
    cutmix: probability that a batch is mixed.
    """

    images: int = Field(default=2000, ge=1, le=10**9)
    before: int = Field(default=0, ge=0, le=10**6)
    batch_size: int = Field(default=64, ge=1)
    lr: float = Field(default=0.01, gt=0.0, le=1e30)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=5e-4, ge=0.0)
    augment: Strategy = "none"
    cutmix: float = Field(default=0.0, ge=0.0, le=1.0)

    def training(self, net: nn.Module, real: Images, rng: RNG, times: int, criterion: Criterion = cross_entropy,
                 state: Mapping[str, Any] | None = None) -> Training:
        """The training of this network as it is after the ``before`` epochs, or continued from a state, for ``times`` times
        ``images`` images more; each is an epoch of the ``Training``."""
        draws = Draws(real, self, alone=not couples_samples(net.train()))
        done = self.before if state is None else state["epoch"]
        training = Training(net, draws, [self.lr] * (done + times), rng, batch_size=self.batch_size,
                            momentum=self.momentum, weight_decay=self.weight_decay, criterion=criterion)
        if state is not None:
            training.restore(state)
        while training.epoch < done:
            training.advance()
        return training


class Draws:
    """Real images as examples: all of them in the first epochs (``before``), then some, drawn anew in each epoch."""

    def __init__(self, real: Images, how: RealTraining, alone: bool) -> None:
        self.real, self.how, self.alone = real, how, alone
        self.examples = CutMixed(augmented(real, how.augment), how.cutmix)
        self.slow = self.examples.slow

    def __len__(self) -> int:
        return min(self.how.images, len(self.real))

    def batch(self, rows: Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
        return self.examples.batch(rows, epoch, rng)

    def walk(self, epoch: int, rng: RNG) -> Iterator[Batch]:
        """The batches of an epoch."""
        order = rng("order", epoch).permutation(len(self.real))
        some = order if epoch < self.how.before else order[:len(self)]
        for number, rows in enumerate(batches(some, self.how.batch_size, self.alone)):
            yield self.batch(rows, epoch, rng("augment", epoch, number))
