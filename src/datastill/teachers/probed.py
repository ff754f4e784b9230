"""Networks that others trained without labels, with a linear classifier trained here on top."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from datastill.data import Images
from datastill.description import NOT_DECISIVE
from datastill.errors import InputError
from datastill.late import nn
from datastill.nets import Architecture
from datastill.rng import RNG
from datastill.teachers._trained import Trained
from datastill.teachers._weights import checksum, file_names, fill_body, read_weights
from datastill.teachers.pool import Context

if TYPE_CHECKING:
    from datastill.teachers._lesson import Trainer


class Probed(Trained):
    """Checkpoints of self-supervised training from files, one for each network: the features are frozen in evaluation mode,
    so that the statistics of batch normalization stay as they are, and a linear classifier is trained on them, on the run's
    images.

    files: in torchvision's names, alone or behind ``module.``, ``encoder_q.`` (MoCo), ``base_encoder.`` (MoCo v3),
        ``backbone.``; heads of the training without labels are left out. The images are normalized as the run's data are.
    epochs, lr: of the classifier: SGD on standardized features of the images and of their mirror images, without weight
        decay (ours).
    """

    networks: tuple[Architecture, ...] = ()  # the run's own
    files: Annotated[tuple[str, ...], NOT_DECISIVE] = ()
    epochs: int = Field(default=1, ge=1, le=1)  # the classifier is trained at once
    probe_epochs: int = Field(default=100, ge=1, le=100_000)
    lr: float = Field(default=0.1, gt=0.0, le=1e6)
    count: int = Field(default=1, ge=1, le=1)
    augment: Literal["none"] = "none"

    _names = field_validator("files", mode="before")(file_names)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.files and len(self.files) != max(1, len(self.networks)):
            raise ValueError(f"files: expected one for each of {max(1, len(self.networks))} networks, got {len(self.files)}")
        return self

    def alone(self, group: int, number: int) -> Self:
        return super().alone(group, number).model_copy(update={"files": self.files[group:group + 1]})

    def digest(self, *more: str) -> str:
        return super().digest(*map(checksum, self.files), *more)

    def identity(self, data_root: Path) -> tuple[str, ...]:
        return (*super().identity(data_root), *map(checksum, self.files))

    def check(self, context: Context, asked: Collection[str] = ()) -> None:
        if not self.files:
            raise InputError("pool probed needs the checkpoint of each network; give them, as in pool.files=checkpoint.pth")
        for name in self.files:
            read_weights(Path(name).expanduser())
        if {"logits", "class_logits"} & {*asked} and self.epoch == 0:
            raise InputError("epoch 0: the linear classifier is not trained yet; leave epoch out")
        super().check(context, asked)
        from datastill.teachers._probe import check_classifier

        check_classifier(self, context)

    def training(self, network: nn.Module, images: Images, rng: RNG) -> Trainer:
        fill_body(network, read_weights(Path(self.files[0]).expanduser()), self.files[0])
        return _Probing(self, network, images, rng)


class _Probing:
    """Trains the classifier, in one epoch."""

    def __init__(self, pool: Probed, network: nn.Module, images: Images, rng: RNG) -> None:
        self.pool, self.network, self.images, self.rng, self.epoch = pool, network, images, rng, 0

    def advance(self) -> float:
        from datastill.teachers._probe import probe

        loss = probe(self.network, self.images, self.pool.probe_epochs, self.pool.lr, self.rng)
        self.epoch = 1
        return loss

    def check(self) -> None:
        """Nothing: the classifier's training has checked its weights."""

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "network": self.network.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.epoch = state["epoch"]
        self.network.load_state_dict(state["network"])
