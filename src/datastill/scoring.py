"""Scores: train students on a set and measure them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from datastill import artifact
from datastill.arguments import checked
from datastill.core import Protocol
from datastill.data import Batch, Images, Lazy
from datastill.description import Description, load
from datastill.errors import InputError
from datastill.foreign import blaming
from datastill.late import nn, torch
from datastill.nets import Architecture, check_network, fresh
from datastill.nets.convnet import ConvNet
from datastill.progress import Progress
from datastill.rng import RNG
from datastill.statistics import auroc
from datastill.teachers import Context
from datastill.train import Examples, Fixed, overall, predict, right_of_class

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.distilled import Distilled
    from datastill.synthetic import SyntheticSet

Split = Literal["test", "validation"]
PREFIX = 64  # images of a batch of SC-DD's script for CIFAR, which reports the best running mean over batches


class Score(Description):
    """Accuracy of one student's last weights on all images of a split, as a fraction; ``per_class`` in class order.

    best: what a published rule of choosing reports instead (``Protocol.watched``): too high, because it chooses on the
    images that are scored. auroc: area under the ROC curve of each class against the rest, mean over classes; None in files
    of earlier versions.
    """

    trial: int = Field(ge=0)
    accuracy: float = Field(ge=0.0, le=1.0)
    per_class: tuple[float | None, ...]  # None for a class without images in the split
    seconds: float = Field(ge=0.0)
    auroc: float | None = Field(default=None, ge=0.0, le=1.0)
    best: float | None = Field(default=None, ge=0.0, le=1.0)  # by the protocol's rule of choosing: never the score


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How sets are scored: students of one kind, trained by a protocol and measured on the ``images`` of a split, on their
    device. train: the training images, from which baselines are drawn. seed: of the students, and of what is drawn.
    data_path: where other processes find the data, if they were moved. root, data_root: where the teachers are that some
    protocols ask.
    """

    protocol: Protocol
    network: Architecture
    train: Images
    images: Images
    split: Split = "test"
    seed: int = 0
    data_path: Path | None = None
    root: Path = Path("outputs")
    data_root: Path = Path("data")

    def context(self, progress: Progress = Progress()) -> Context:
        """What pools of teachers need to know."""
        return Context(self.train, self.root, self.data_root, progress)

    def teachers(self, protocol: Protocol) -> tuple[str, ...]:
        """What determines the teachers a protocol asks, besides its description and the data."""
        return tuple(name for pool in protocol.pools(self.network) for name in pool.identity(self.data_root))

    def prepare(self, progress: Progress = Progress()) -> None:
        """Train or load the teachers that are missing, once the protocol was checked. Raises InputError, RunError."""
        protocol, context = self.protocol.for_network(self.network), self.context(progress)
        protocol.check(context, self.network)
        for pool in protocol.pools(self.network):
            pool.prepare(context)

    @property
    def fingerprint(self) -> str:
        """Of training and scored images."""
        return f"{self.train.fingerprint}-{self.images.fingerprint}"

    @property
    def chance(self) -> float:
        """The accuracy of guessing, as a fraction."""
        return 1 / len(self.images.classes)

    @property
    def largest(self) -> tuple[str, float]:
        """The class most of the images are of, and its share: the accuracy of always answering it."""
        most = max(counts := self.images.counts)
        return self.images.classes[counts.index(most)], most / len(self.images)

    def protocol_for(self, lr: float | None) -> Protocol:
        """The protocol with its settings for this network and for a set with this learned learning rate filled in."""
        return self.protocol.for_network(self.network).for_set(lr)


@checked
def evaluate(synthetic: Any, protocol: Protocol | str, images: Any, *,
             network: Architecture | str = ConvNet(), trials: int = 5, seed: int = 0, train: Any = None,
             root: Path | str = "outputs", data_root: Path | str = "data") -> list[Score]:
    """Train ``trials`` fresh students on the set by the protocol and measure each on ``images`` (report which split it is).

    synthetic: a set, the folder of one, or real images to compare with. images: ``Images``, or any map-style dataset, which
    is then normalized like the set. Students of trial t start from the same weights whatever they are trained on, so that
    scores of different sets are paired. train: the real training images, and root, data_root: where teachers are, for
    protocols that ask teachers, which are trained if they are missing. Raises InputError: the set and the images differ in
    classes, normalization or shape.
    """
    protocol, network = load(Protocol, protocol), load(Architecture, network)  # type: ignore[type-abstract]
    if isinstance(synthetic, (str, Path)):
        synthetic = artifact.load(synthetic)
    elif not hasattr(synthetic, "batch"):
        synthetic = Images.from_dataset(synthetic, like=images if isinstance(images, Images) else None)
    images = images if isinstance(images, Images) else images_like(images, synthetic)
    examples = synthetic.to(images.device)
    protocol = protocol.for_network(network).for_set(learned_lr(synthetic))
    check_alike(examples, images)
    check_student(network, images)
    if train is None:
        return [student(examples, protocol, network, images, trial, seed) for trial in range(trials)]
    evaluation = Evaluation(protocol, network, images_like(train, synthetic), images, seed=seed, root=Path(root),
                            data_root=Path(data_root))
    evaluation.prepare()
    return [student(examples, protocol, network, images, trial, seed, context=evaluation.context())
            for trial in range(trials)]


def images_like(images: Any, like: Any) -> Images:
    """Images, or any map-style dataset, to score a set on: on the device of ``like``, normalized and whitened in the same
    way. Raises InputError."""
    found = images if isinstance(images, Images) else Images.from_dataset(images, like=like)
    ours = None if found.whitening is None else found.whitening.identity
    theirs = None if like.whitening is None else like.whitening.identity
    if (found.mean, found.std, ours) != (like.mean, like.std, theirs):
        found = replace(found, mean=like.mean, std=like.std, whitening=None, whitened=None)
        found = found if like.whitening is None else found.whiten(like.whitening)
    return found.to(getattr(like, "device", found.device))


def check_held_out(train: Images, images: Images) -> None:
    """Check that the images to score on are not the training images. Raises InputError."""
    if images.fingerprint == train.fingerprint:
        raise InputError(f"the images to score on are the training images (fingerprint {train.fingerprint}); pass images "
                         "that the set was not distilled from, such as the test split")


def repeated(train: Images, images: Images) -> int | None:
    """The number of images whose pixels are those of a training image; None if that would read them from disk."""
    if any(isinstance(one.pixels, Lazy) or one.mapped for one in (train, images)):
        return None
    known = set(train.hashes)
    return sum(one in known for one in images.hashes)


def learned_lr(examples: Any) -> float | None:
    """The learning rate that was learned with a set, if any."""
    lr = getattr(examples, "lr", None)
    return None if lr is None else float(lr.detach() if isinstance(lr, torch.Tensor) else lr)


def check_student(network: Architecture, images: Images) -> None:
    """Check that students of this kind can be scored on these images. Raises InputError, before anything is trained."""
    if not len(images):
        raise InputError("there are no images to score on")
    check_network(network, images.shape, len(images.classes), images.device)


def student(examples: Any, protocol: Protocol, network: Architecture, images: Images, trial: int, seed: int,
            progress: Progress = Progress(), *, context: Context | None = None, folder: Path | None = None,
            checksum: str = "") -> Score:
    """Train one student and measure it. All randomness is a function of (seed, trial).

    context: where the teachers are that some protocols ask. folder, checksum: where labels are stored, and of which set.
    """
    rng = RNG(seed)("student", trial)
    began = time.perf_counter()
    net = fresh(network, images.shape, len(images.classes), rng("network"), images.device)
    with blaming(("protocol", type(protocol)), ("network", type(network))):  # it may leave a network that no longer works
        seen = _frozen(examples)
        if context is not None:
            seen = protocol.shown(seen, context, network, RNG(seed)("labels"), folder, checksum)
        watching = _Watching(progress, net, images, protocol.watched)
        protocol.train(net, seen, rng("train"), watching)
        logits = predict(net, images)
        shares = right_of_class(logits, images)
    return Score(trial=trial, accuracy=overall(shares, images), seconds=round(time.perf_counter() - began, 2),
                 per_class=tuple(None if math.isnan(v) else v for v in shares.tolist()), best=watching.best,
                 auroc=auroc(logits.softmax(1).numpy(), images.targets.cpu().numpy()))


class _Watching(Progress):
    """Passes progress on, and measures the student after the epochs that a rule of choosing looks at."""

    def __init__(self, progress: Progress, network: nn.Module, images: Images, epochs: Mapping[int, str]) -> None:
        self.progress, self.network, self.images, self.epochs = progress, network, images, epochs
        self.best: float | None = None

    def tell(self, done: int, of: int, note: str = "") -> None:
        self.progress.tell(done, of, note)
        if done in self.epochs:
            self.best = max(self.best or 0.0, self._measured(self.epochs[done]))

    def check(self) -> None:
        self.progress.check()

    def warn(self, text: str) -> None:
        self.progress.warn(text)

    def _measured(self, rule: str) -> float:
        right = predict(self.network, self.images).argmax(1) == self.images.targets.cpu()
        if rule != "prefixes":
            return float(right.double().mean())
        ends = torch.arange(PREFIX, len(right) + PREFIX, PREFIX).clamp(max=len(right))
        return float((right.double().cumsum(0)[ends - 1] / ends).max())


def _frozen(examples: Any) -> Examples:
    """The examples, detached from the graph: students train on the images as they are."""
    from datastill.synthetic import SyntheticSet

    if isinstance(examples, SyntheticSet):
        with torch.no_grad():
            return Fixed(examples.batch())
    return Fixed(examples) if isinstance(examples, Batch) else examples


def check_alike(examples: SyntheticSet | Distilled | Images, images: Images) -> None:
    """Check that a set and the images to score it on match. Raises InputError."""
    if "images_of" in getattr(examples, "card", {}):
        raise InputError("the set is a part of one, without images of the other classes; merge all parts first (datastill "
                         "merge)")
    for what in ("classes", "mean", "std"):
        mine, theirs = tuple(getattr(examples, what)), tuple(getattr(images, what))
        if mine != theirs:
            raise InputError(f"the set and the images to score it on differ in {what}: {mine[:6]} and {theirs[:6]}; "
                             "load the dataset it was distilled from")
    ours, others = ("none" if w is None else w.identity for w in (examples.whitening, images.whitening))
    if ours != others:
        raise InputError(f"the set and the images to score it on differ in ZCA whitening: {ours} and {others}; load the "
                         f"data it was distilled from, with data.zca={'false' if ours == 'none' else 'true'}")
    shape = examples.shape if isinstance(examples, Images) else tuple(_looks(examples).shape[1:])
    if shape != images.shape:
        raise InputError(f"the set and the images to score it on differ in shape: {shape} and {images.shape}")


def _looks(examples: Any) -> Tensor:
    """The images of a set; those of a loaded one without moving them."""
    found: Tensor = examples.x if "x" in vars(examples) else examples.batch().x
    return found


def guessing(chance: float, images: int) -> float:
    """The accuracy up to which a student is no better than guessing on this many images."""
    return chance + max(2 * math.sqrt(chance * (1 - chance) / max(1, images)), 0.1 * chance)
