"""What a method may look at: real training images, fresh networks, teachers, and how images are parametrized."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from datastill.compute import Precision, autocast
from datastill.data import Batch, Images
from datastill.errors import InputError
from datastill.late import nn, torch
from datastill.nets import Architecture, Passes, check_network, fresh, passes
from datastill.parametrization import Codec, Parametrization
from datastill.parametrizations.pixels import Pixels
from datastill.progress import Progress
from datastill.registry import kind
from datastill.rng import RNG
from datastill.tables import counted
from datastill.teachers import Context, Pool, Teachers

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.synthetic import SyntheticSet


@dataclass(frozen=True)
class Task:
    """What a method may look at: real *training* images, fresh networks, and how images are parametrized.

    precision: "bfloat16" applies to the networks whose features are matched; matched gradients stay float32.
    progress: receives the progress of long preparation (training teachers, or the network whose features select a coreset).
    root: folder for results, including teachers; data_root: folder of other datasets. dry_run: nothing is created;
        untrained networks stand in for teachers (``datastill plan``). whole: the task this is a part of, if any.
    kept: what a method remembers from one iteration to the next, by name: tensors and plain values, in lists and tables. It
        is part of a run's checkpoint.
    ipc, first: of a whole set, its images per class and which of them is the first here (``Method.splits``); 0 if there is
        no such set. some: the classes that are distilled here, if not all (``Method.class_unit``).

    A task never holds test images. ``Run.task(images)`` creates the task of a run.
    """

    real: Images
    network: Architecture
    parametrization: Parametrization = field(default_factory=Pixels)
    precision: Precision = "float32"
    progress: Progress = field(default_factory=Progress, compare=False)
    root: Path = field(default=Path("outputs"), compare=False)
    data_root: Path = field(default=Path("data"), compare=False)
    dry_run: bool = field(default=False, compare=False)
    whole: Task | None = field(default=None, compare=False, repr=False)
    ipc: int = 0
    first: int = 0
    some: range | None = None
    kept: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    _teachers: dict[Pool, Teachers] = field(default_factory=dict, init=False, compare=False, repr=False)

    def part(self, number: int, of: int) -> Task:
        """The task with only a part of its images: in each class, every ``of``-th from ``number`` on. Teachers are those of
        the whole task. A shard of a set starts from these images."""
        rows = torch.cat([of_class[number::of] for of_class in self.real.of_class])
        return replace(self, real=self.real.subset(rows.sort().values), whole=self)

    def to_start(self) -> Task:
        """The task as ``Method.start`` is given it: with the images counted that stored ones start from."""
        each = self.parametrization.starts
        return self if each == 1 else replace(self, ipc=self.ipc * each, first=self.first * each, whole=self.whole or self)

    def anew(self) -> Task:
        """The same as at the beginning of a run, when nothing is ``kept``; its teachers stay loaded."""
        found = copy.copy(self)
        object.__setattr__(found, "kept", {})  # frozen
        return found

    @property
    def context(self) -> Context:
        """What a pool of teachers needs to know about this task."""
        if self.whole is not None:
            return self.whole.context
        return Context(self.real, self.root, self.data_root, self.progress, self.dry_run)

    def teachers(self, pool: Pool) -> Teachers:
        """The frozen networks of a pool, each trained or loaded on first use; a pool that names no networks gets the task's.
        Raises InputError, RunError."""
        if self.whole is not None:
            return self.whole.teachers(pool)
        pool = pool.for_network(self.network)
        if pool not in self._teachers:
            self._teachers[pool] = Teachers(pool, self.context)
        return self._teachers[pool]

    @property
    def device(self) -> torch.device:
        """Where everything is computed: the device of the real images."""
        return self.real.device

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.real.classes)

    @property
    def here(self) -> range:
        """The numbers of the classes that are distilled here."""
        return range(self.classes) if self.some is None else self.some

    def fresh(self, rng: RNG) -> nn.Module:
        """A new network with PyTorch's default initialization, a function of ``rng`` only, in training mode."""
        return fresh(self.network, self.real.shape, self.classes, rng, self.device)

    def fresh_among(self, among: Sequence[Architecture], rng: RNG) -> nn.Module:
        """The same of an architecture drawn among several; if there are none, of the run's."""
        if not among:
            return self.fresh(rng)
        drawn = among[int(rng("architecture").numpy().integers(len(among)))]
        return fresh(drawn, self.real.shape, self.classes, rng, self.device)

    def check_among(self, among: Sequence[Architecture]) -> None:
        """Check that such networks can be matched on. Raises InputError."""
        for one in among:
            check_network(one, self.real.shape, self.classes, self.device)

    def features(self, net: nn.Module, x: Tensor) -> Tensor:
        """``net.embed(x)``, (B, D) in the type of x; in chunks of a suitable size, or all at once if images are coupled."""
        how = self.passes(net, x)
        with self.autocast():
            return torch.cat([how.embed(part).to(x.dtype) for (part,) in how.split(x)])

    def logits(self, net: nn.Module, x: Tensor) -> Tensor:
        """``net(x)``, (B, K) in the type of x, likewise."""
        how = self.passes(net, x)
        with self.autocast():
            return torch.cat([how.logits(part).to(x.dtype) for (part,) in how.split(x)])

    def passes(self, net: nn.Module, x: Tensor) -> Passes:
        """How to pass images through a network whose features are matched, in the task's ``precision``."""
        with self.autocast():
            return passes(net, x, "pixels" if x.requires_grad and torch.is_grad_enabled() else "features")

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which networks compute in the task's ``precision``."""
        return autocast(self.device, self.precision)

    def random_real(self, ipc: int, rng: RNG) -> Batch:
        """``ipc`` random training images per class, in class order; without replacement, but a class of fewer images gives
        each of them several times (see ``filled``)."""
        drawn = [filled(self.real.draw(ipc, rng(c), of_class=c), ipc) for c in range(self.classes)]
        return self.real.batch(torch.cat(drawn))

    def real_batch(self, count: int, rng: RNG) -> Batch:
        """``count`` random training images per class to match on, in class order, but no more than the largest class has:
        more would only repeat them."""
        return self.random_real(min(count, max(map(len, self.real.of_class))), rng)

    def first_images(self, ipc: int, init: Literal["real", "noise"], rng: RNG) -> Batch:
        """What a method starts from: random real images, or standard normal noise with their labels."""
        start = self.random_real(ipc, rng("start"))
        return start if init == "real" else Batch(rng("noise").normal(*start.x.shape).to(self.device), start.y)

    def synthetic(self, start: Batch, soft: bool = False, lr: float | None = None,
                  rng: RNG = RNG("encode")) -> SyntheticSet:
        """A synthetic set initialized from these images and labels with the task's parametrization. Where a stored image
        starts from several, they follow each other, and its label is the mean of theirs.

        rng: the stream for parametrizations that draw at random; without it the draw is the same for every seed.
        """
        each = self.parametrization.starts
        if each > 1 and len(start.x) % (len(self.here) * each):
            raise InputError(f"parametrization {kind(self.parametrization)} makes each stored image of {each}; got "
                             f"{counted(len(start.x), 'image')} of {counted(len(self.here), 'class')}")
        parameters = self.parametrization.encode(start, self, rng)
        for name, value in parameters.items():
            if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not str(name).isidentifier():
                raise InputError(f"{kind(self.parametrization)}.encode returned {name!r}: {type(value).__name__}; expected "
                                 "floating-point tensors by names that are valid in Python")
        from datastill.synthetic import SyntheticSet

        labels = start.y if each == 1 else start.y.unflatten(0, (-1, each)).mean(1)
        return SyntheticSet(parameters, labels, self.real, self.codec, soft, lr, self.some)

    @property
    def codec(self) -> Codec:
        """What decodes images here."""
        return self.parametrization.bound(self)

    def decoded(self, ipc: int) -> int:
        """The total number of images that ``ipc`` stored ones per class decode to."""
        return len(self.parametrization.labels(torch.empty(ipc * len(self.here), self.classes, device="meta")))


def filled(rows: Tensor, count: int) -> Tensor:
    """The first ``count`` rows, from the beginning again if there are fewer."""
    return rows if len(rows) == count else rows.repeat(-(-count // len(rows)))[:count]


def check_ipc(real: Images, ipc: int, otherwise: str = "") -> None:
    """Check that every class has at least ``ipc`` images. Raises InputError; ``otherwise``: what else can be done."""
    smallest = min(range(len(real.classes)), key=lambda c: len(real.of_class[c]))
    if (there := len(real.of_class[smallest])) < ipc:
        advice = f"use ipc={there} or less{otherwise}" if there else "leave it out with data.classes, or add images of it"
        raise InputError(f"ipc {ipc} is more than the {counted(there, 'training image')} of class "
                         f"{real.classes[smallest]!r}; {advice}")
