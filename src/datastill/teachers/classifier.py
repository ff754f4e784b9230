"""Networks trained as image classifiers usually are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from datastill.data import Batch, Images
from datastill.functional.augment import shift_and_flip
from datastill.functional.crops import draw_flips, flip
from datastill.nets import Architecture
from datastill.rng import RNG
from datastill.teachers._trained import Trained
from datastill.train import Augmented, Examples, half_cosine

if TYPE_CHECKING:
    from torch import Tensor


class Classifier(Trained):
    """Networks trained to be accurate, for methods that recover images from them: SGD with a learning rate of 0.1 that falls
    to 0 as a cosine over 200 epochs, momentum 0.9, weight decay 5e-4, batches of 128, images shifted by up to an eighth of a
    side (4 of 32 pixels, zeros behind) and mirrored.

    This is how SRe2L (Yin et al. 2023) trains ResNet-18 on CIFAR-100, 78.7 % accurate by its readme. augment: "standard"
    does both; "shift" does not mirror, for digits; "crop" cuts boxes of 8 to 100 % of the area out of the images, as large
    as they are in their files, and mirrors them, as usual for photographs.
    """

    networks: tuple[Architecture, ...] = ()  # the run's own
    epochs: int = Field(default=200, ge=0, le=100_000)
    lr: float = Field(default=0.1, gt=0.0, le=1e30)
    weight_decay: float = Field(default=5e-4, ge=0.0)
    batch_size: int = Field(default=128, ge=1)
    count: int = Field(default=1, ge=1, le=10_000)
    drops: tuple[float, ...] = Field(default=(), max_length=0)  # the learning rate falls as a cosine
    augment: Literal["standard", "shift", "crop", "none"] = "standard"

    @property
    def rates(self) -> list[float]:
        return half_cosine(self.lr, self.epochs, warmup=0.0)

    def examples(self, images: Images) -> Examples:
        if self.augment == "none":
            return images
        if self.augment == "crop":
            return _Crops(images)
        return Augmented(images, lambda x, rng: shift_and_flip(x, rng, mirror=self.augment == "standard"))


class _Crops:
    """Images as examples: a random crop of each, mirrored or not."""

    def __init__(self, images: Images) -> None:
        self.images, self.slow = images, images.slow

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
        if rng is None:
            return self.images.batch(rows)
        x = self.images.crops(rows, rng("crop"))
        return Batch(flip(x, draw_flips(rng("flip"), len(rows))), self.images.labels(rows))
