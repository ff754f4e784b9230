"""Pools of networks that datastill trains: their settings, where each teacher is stored, and how it is loaded."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from datastill.data import Data, Images, hold_out
from datastill.data.domain import Domain, domain_of
from datastill.digest import spec
from datastill.errors import InputError, RunError
from datastill.files import reason
from datastill.functional.augment import Strategy
from datastill.late import nn, torch
from datastill.nets import fresh
from datastill.registry import kind
from datastill.rng import RNG
from datastill.states import read_state
from datastill.store import CARD, Entry, locked
from datastill.tables import counted
from datastill.teachers._lesson import STATE, Lesson, Trainer
from datastill.teachers._snapshots import SNAPSHOTS, Rows, again, check_rows, read_into
from datastill.teachers.pool import Context, Pool, Teacher, Trajectory, frozen
from datastill.train import Examples, Training, accuracies, augmented, extrapolated, overall

GRID = (0, 1, 2, 4, 6, 10, 20, 50, 100, 150)  # epochs stored by default
SPLIT = RNG("teachers", "validation")  # the stream that draws which images a teacher is measured on


class Trained(Pool):
    """Networks trained on the run's training images or on another dataset, with cross-entropy and SGD unless your own pool
    overrides ``outputs``, ``examples``, ``how``, ``training`` or ``measure``.

    networks: one or several architectures. count: members of each; ``seed`` is the seed of the first, the others count up
        from it.
    data: the dataset they are trained on; default: the run's own training images.
    epoch: which snapshot to use: "last", or one of the stored epochs (0: before any training).
    epochs, lr, momentum, weight_decay, batch_size: of SGD. drops: fractions of the epochs after which the learning rate is
        divided by 10. augment: a DSA strategy, drawn separately for each image, or "none".
    snapshots: epochs whose weights are stored besides the last; default: 0, 1, 2, 4, 6, 10, 20, 50, 100, 150; "every".
    validation: share of the training images held out to measure the teacher after every epoch (ours; with 0 it is trained on
        all of them and not measured).
    """

    count: int = Field(default=10, ge=1, le=10_000)
    seed: int = Field(default=0, ge=0, lt=2**62)
    data: Data | None = None
    epoch: int | Literal["last"] = "last"
    epochs: int = Field(default=150, ge=0, le=100_000)
    lr: float = Field(default=0.01, gt=0.0, le=1e30)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=5e-3, ge=0.0)
    batch_size: int = Field(default=256, ge=1)
    drops: tuple[float, ...] = (1 / 3, 2 / 3)
    augment: Strategy = "none"
    snapshots: tuple[int, ...] | Literal["every"] = ()
    validation: float = Field(default=0.1, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _is_kept(self) -> Self:
        if wrong := [share for share in self.drops if not 0 < share <= 1]:
            raise ValueError(f"drops: expected fractions of the epochs, above 0 and at most 1, got {wrong[0]}")
        if outside := [e for e in self.snapshots if not (isinstance(e, int) and 0 <= e <= self.epochs)] \
                if self.snapshots != "every" else []:
            raise ValueError(f"snapshots: expected epochs from 0 to {self.epochs}, got {outside[0]}")
        if self.epoch != "last" and self.epoch not in self.kept:
            advice = f"add it to snapshots (stored epochs: {', '.join(map(str, self.kept))})" \
                if 0 <= self.epoch <= self.epochs else f"teachers are trained for {counted(self.epochs, 'epoch')}"
            raise ValueError(f"epoch {self.epoch} is never stored; {advice}")
        return self

    @property
    def kept(self) -> tuple[int, ...]:
        """The epochs whose weights are stored, ascending; always includes the last."""
        if self.snapshots == "every":
            return tuple(range(self.epochs + 1))
        return tuple(sorted({e for e in self.snapshots or GRID if e <= self.epochs} | {self.epochs}))

    @property
    def size(self) -> int:
        return self.count

    @property
    def rates(self) -> list[float]:
        """Learning rate of each epoch."""
        ends = [round(share * self.epochs) for share in self.drops]
        return [self.lr * 0.1 ** sum(epoch >= end for end in ends) for epoch in range(self.epochs)]

    def outputs(self, images: Images) -> tuple[str, ...]:
        """Names of the network outputs: the classes. Empty if only features are needed."""
        return images.classes

    def examples(self, images: Images) -> Examples:
        """The examples they are trained on: these images, augmented, with their labels."""
        return augmented(images, self.augment)

    def how(self) -> dict[str, Any]:
        """Options of ``Training``, for example ``criterion``."""
        return {"batch_size": self.batch_size, "momentum": self.momentum, "weight_decay": self.weight_decay}

    def training(self, network: nn.Module, images: Images, rng: RNG) -> Trainer:
        """The training of one network on these images for ``epochs`` epochs; a function of its arguments only. Whatever else
        is trained along with it (a head, a second network) must be part of its state."""
        return Training(network, self.examples(images), self.rates, rng, **self.how())

    def measure(self, network: nn.Module, held: Images) -> float:
        """Score of a network on held-out images, stored for every epoch; here the accuracy, a fraction."""
        return overall(accuracies(network, held), held)

    def report(self, network: nn.Module, held: Images) -> dict[str, Any]:
        """Further entries of the card about a network that has been trained, from held-out images."""
        return {}

    def domain(self, context: Context, group: int = 0) -> Domain:
        images = self._images(context)
        known = replace(domain_of(images), classes=self.outputs(images))
        return known if self.data is None else known.to(context.real.device)

    def identity(self, data_root: Path) -> tuple[str, ...]:
        return () if self.data is None else (_loaded(self.data, data_root).fingerprint,)

    def check(self, context: Context, asked: Collection[str] = ()) -> None:
        super().check(context, asked)
        hold_out(self._images(context), self.validation, SPLIT, "pool.validation")
        for member in self.members():
            if (folder := self._folder(context, *member)) and (folder / CARD).exists():
                self._card(folder)

    def places(self, context: Context) -> list[Path]:
        return [self._folder(context, *member) for member in self.members()]

    def missing(self, context: Context) -> int:
        return sum(not (place / CARD).exists() for place in self.places(context))

    def prepare(self, context: Context) -> None:
        """Train the teachers that do not exist yet; waits for those that another process is training."""
        members = self.members()
        for done, member in enumerate(members):
            self._make(context, *member, done, len(members))
        for member in members:
            self.load(context, *member)  # finds damaged files before the work starts

    def seconds(self, context: Context) -> float:
        images, total = self._images(context), 0.0
        for group, number in self.members():
            if not (self._folder(context, group, number) / CARD).exists():
                total += self.epochs * _epoch_seconds(self.alone(group, 0), images, context.real.device)
        return total

    def mend(self, context: Context) -> None:
        for member in self.members():
            folder = self._folder(context, *member)
            if not folder.exists():
                continue
            domain = self.domain(context)
            network = fresh(self.networks[member[0]], domain.shape, len(domain.classes), RNG("mend"), torch.device("cpu"))
            try:
                if (folder / CARD).exists():
                    self._card(folder)
                    for epoch in self.kept:
                        read_into(network, folder, epoch, "")
                elif (folder / STATE).exists():
                    state = read_state(folder / STATE, torch.device("cpu"), "teacher")
                    check_rows(folder, network, self.kept, state["sums"])
            except InputError:
                with locked(folder):
                    for name in (CARD, SNAPSHOTS, STATE):
                        (folder / name).unlink(missing_ok=True)

    def load(self, context: Context, group: int, number: int) -> Teacher:
        folder, one = self._folder(context, group, number), self._one(group, number)
        if not (folder / CARD).exists():
            self._make(context, group, number, 0, 1)
        domain = self.domain(context)
        network = fresh(one.networks[0], domain.shape, len(domain.classes), RNG("load"), context.real.device)
        epoch = self.epochs if self.epoch == "last" else self.epoch
        self._card(folder)
        card = read_into(network, folder, epoch, again(folder))
        return Teacher(f"{spec(one.networks[0])}, seed {one.seed}, epoch {epoch}", group, frozen(network), domain,
                       domain_of(context.real), folder, self._facts(one, card))

    def facts(self, context: Context) -> list[dict[str, Any]]:
        return [self._facts(self._one(*member), self._card(self._folder(context, *member))) for member in self.members()]

    def _facts(self, one: Trained, card: Mapping[str, Any]) -> dict[str, Any]:
        epoch = self.epochs if self.epoch == "last" else self.epoch
        measured = card["accuracy"][epoch] if card["accuracy"] else None
        return {"network": spec(one.networks[0]), "seed": one.seed, "epoch": epoch, "trained on": card["data"],
                "accuracy": measured, **({"linear": card["linear"]} if "linear" in card else {}), "digest": card["digest"]}

    def trajectory(self, context: Context, number: int) -> Trajectory:
        folder = self._folder(context, 0, number)
        if not (folder / CARD).exists():
            self._make(context, 0, number, 0, 1)
        self._card(folder)
        rows = Rows(folder, again(folder))
        return Trajectory(rows.read, context.real.device)

    def _card(self, folder: Path) -> dict[str, Any]:
        """The card of a finished teacher. Raises InputError if it is damaged or belongs to another teacher."""
        card = Entry(folder, again(folder)).card()
        if card.get("digest") != folder.name.rpartition("-")[2]:
            raise InputError(f"{folder} contains another teacher ({card.get('digest')}); {again(folder)}")
        return card

    def accuracy(self, context: Context, group: int, number: int) -> list[float]:
        """What ``measure`` returned for a finished teacher before training and after each epoch: validation accuracy (a
        fraction) unless the pool measures something else; empty if nothing was measured. Raises InputError."""
        folder = self._folder(context, group, number)
        return list(self._card(folder)["accuracy"])

    def _images(self, context: Context) -> Images:
        """What they are trained on; a dataset other than the run's stays in host memory."""
        return context.real if self.data is None else _loaded(self.data, context.data_root)

    def alone(self, group: int, number: int) -> Self:
        return self.model_copy(update={"networks": (self.networks[group],), "count": 1,
                                       "seed": self.seed + number})

    def _one(self, group: int, number: int) -> Self:
        """Only what determines this teacher's weights; the data enters its digest by content."""
        return self.alone(group, number).model_copy(update={"epoch": "last", "data": None})

    def _folder(self, context: Context, group: int, number: int) -> Path:
        one = self._one(group, number)
        name = kind(one.networks[0]).rpartition(":")[2]
        return context.root / "teachers" / f"{name}-{one.digest(self._images(context).fingerprint)}"

    def _make(self, context: Context, group: int, number: int, before: int, of: int) -> None:
        """Train one teacher if it does not exist; ``before`` of ``of`` teachers are done."""
        folder = self._folder(context, group, number)
        if (place := Entry(folder, again(folder))).finished:
            (folder / STATE).unlink(missing_ok=True)  # left by a kill between the card and its removal
            return
        with place.held(wait=True):
            if place.finished:  # another process trained it while this one waited
                return
            images = self._images(context).to(context.real.device)
            lesson = Lesson(self._one(group, number), images, *_apart(images, self.validation), folder)
            try:
                lesson.carry_out(context.progress.part(before, of, f"teacher {before + 1} of {of}"))
            except OSError as error:
                raise RunError(f"stopped: cannot write to {folder}: {reason(error)}; free some space and run the same "
                               "command to continue") from error


@lru_cache(maxsize=4)
def _loaded(data: Data, root: Path) -> Images:
    """The training images of another dataset, in host memory, read once."""
    return data.load(root).train


LONGEST = 8.0  # seconds, about, that an estimate takes at most
_SECONDS: dict[Any, float] = {}  # by fingerprint, because a cache must not keep images alive


def _epoch_seconds(pool: Trained, images: Images, device: torch.device) -> float:
    """Seconds per epoch over these images on a device, estimated from a few batches; measured once."""
    key = (pool, images.fingerprint, device)
    if key not in _SECONDS:
        _SECONDS[key] = _measured(pool, images, device)
    return _SECONDS[key]


def _measured(pool: Trained, images: Images, device: torch.device) -> float:
    def train(count: int) -> float:
        part = images.subset(torch.arange(count)).to(device)
        net = fresh(pool.networks[0], images.shape, len(pool.outputs(images)), RNG("rehearsal"), device)
        training = pool.model_copy(update={"epochs": 3, "lr": 0.0}).training(net, part, RNG("rehearsal"))
        training.advance()
        began = time.perf_counter()
        training.advance()  # not the last one, after which some train a classifier too
        return time.perf_counter() - began

    enough = min(len(images), 4 * pool.batch_size)
    return extrapolated(train, enough, LONGEST) * len(images) / enough


def _apart(images: Images, share: float) -> tuple[Images, Images | None]:
    """(images to train on, images to measure on)."""
    if not share:
        return images, None
    held, rest = hold_out(images, share, SPLIT, "pool.validation")
    return images.subset(rest), images.subset(held)
