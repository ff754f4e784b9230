"""Networks trained without labels, with a linear classifier on top."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from datastill.data import Images
from datastill.errors import InputError
from datastill.extras import install
from datastill.late import nn
from datastill.nets import Architecture
from datastill.registry import kind
from datastill.rng import RNG
from datastill.teachers._trained import Trained
from datastill.teachers.pool import Context
from datastill.train import half_cosine

if TYPE_CHECKING:
    from datastill.teachers._lesson import Trainer

Loss = Literal["moco_v2", "simclr", "byol", "dino", "swav", "barlow_twins", "vicreg"]


class SelfSupervised(Trained):
    """Networks whose features are learned from two views of every image, without labels: the squeeze of SC-DD (Zhou et al.
    2024). Then a linear classifier is trained on the frozen features, in evaluation mode, so that the statistics of batch
    normalization stay as they are. Needs the extra ``ssl`` (lightly, whose losses, heads and views these are).

    The defaults are those of MoCo's public recipe for CIFAR, which the settings that SC-DD names for CIFAR-100 and
    Tiny-ImageNet fit (inferred), except for the head, a linear layer there, and batch normalization, in eight parts of a
    batch there (both ours): SGD, learning rate 0.06 that falls as a cosine over 200 epochs, weight decay 5e-4, batches
    of 512, a queue of 4096, temperature 0.1, momentum of the second network 0.99. All losses see the same views (ours):
    crops of 20 to 100 % of the area, mirrored, colors jittered, some gray, above 64 pixels blurred.

    loss: "moco_v2", "simclr", "byol", "dino" (two views of the whole image, none of parts), "swav" (likewise),
        "barlow_twins", "vicreg".
    temperature: of MoCo, SimCLR and SwAV. queue: keys that MoCo keeps. ema: momentum of the second network of MoCo, BYOL and
        DINO. hidden, dim: widths of the heads. prototypes: of DINO and SwAV.
    probe_epochs, probe_lr: of the linear classifier, SGD on standardized features of the images and of their mirror images,
        without weight decay (ours; the authors of MoCo augment, with a learning rate of 30 for raw features).

    What is measured after each epoch is the accuracy of the 200 nearest neighbors among up to 5,000 training images; the
    card has that of the linear classifier too.
    """

    version: ClassVar[int] = 2  # 2: MoCo's network sees the first view only; views are whitened where images are

    presets: ClassVar[dict[str, dict[str, Any]]] = {name: {"loss": name} for name in (
        "moco_v2", "simclr", "byol", "dino", "swav", "barlow_twins", "vicreg")}

    loss: Loss = "moco_v2"
    networks: tuple[Architecture, ...] = ()  # the run's own
    epochs: int = Field(default=200, ge=0, le=100_000)
    lr: float = Field(default=0.06, gt=0.0, le=1e30)
    weight_decay: float = Field(default=5e-4, ge=0.0)
    batch_size: int = Field(default=512, ge=2)
    count: int = Field(default=1, ge=1, le=10_000)
    drops: tuple[float, ...] = Field(default=(), max_length=0)  # the learning rate falls as a cosine
    augment: Literal["none"] = "none"  # views are what is learned from
    temperature: float = Field(default=0.1, ge=0.01, le=1e3)
    queue: int = Field(default=4096, ge=1, le=2**20)
    ema: float = Field(default=0.99, ge=0.0, lt=1.0)
    hidden: int = Field(default=512, ge=1, le=65536)
    dim: int = Field(default=128, ge=2, le=65536)
    prototypes: int = Field(default=512, ge=2, le=2**20)
    probe_epochs: int = Field(default=100, ge=1, le=100_000)
    probe_lr: float = Field(default=0.1, gt=0.0, le=1e6)

    @property
    def rates(self) -> list[float]:
        return half_cosine(self.lr, self.epochs, warmup=0.0)

    def check(self, context: Context, asked: Collection[str] = ()) -> None:
        try:
            import lightly  # noqa: F401
        except ModuleNotFoundError:
            raise InputError("pools that learn without labels need lightly, which is not installed; "
                             f"{install('ssl')}") from None
        if {"logits", "class_logits"} & {*asked} and (self.epoch not in ("last", self.epochs) or not self.epochs):
            raise InputError(f"epoch {self.epoch if self.epochs else 0}: the linear classifier is trained after the last "
                             "epoch; leave epoch out, or take another kind of pool")
        if (channels := self.domain(context).shape[0]) not in (1, 3):
            raise InputError(f"pool {kind(self)}: its views are made of gray or color pictures, the images have "
                             f"{channels} channels; set data.channels=3, or take another kind of pool")
        super().check(context, asked)
        from datastill.teachers._probe import check_classifier

        check_classifier(self, context)

    def training(self, network: nn.Module, images: Images, rng: RNG) -> Trainer:
        from datastill.teachers._self_training import SelfTraining

        return SelfTraining(self, network, images, rng)

    def report(self, network: nn.Module, held: Images) -> dict[str, Any]:
        return {"linear": round(super().measure(network, held), 6)}

    def measure(self, network: nn.Module, held: Images) -> float:
        """Share of held-out images that their nearest neighbors among the training images classify correctly."""
        from datastill.teachers._self_training import neighbors

        return neighbors(network, held)
