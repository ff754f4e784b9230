"""The interfaces of the library: what a method is given (Task), what it yields (Step), how updates are applied (Optim),
and the families to extend: Method, Plugin, Protocol."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field, TypeAdapter

from datastill.compute import Precision, autocast
from datastill.data import Batch, Images
from datastill.description import Description, Family
from datastill.errors import InputError
from datastill.late import nn, torch
from datastill.nets import Architecture, Passes, check_network, fresh, passes
from datastill.parametrization import Codec, Parametrization
from datastill.parametrizations.pixels import Pixels
from datastill.progress import Progress
from datastill.registry import kind
from datastill.rng import RNG
from datastill.tables import counted, shown
from datastill.teachers import Context, Pool, Teachers
from datastill.train import Examples, cross_entropy

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


@dataclass(frozen=True)
class Step:
    """A proposed update: the gradient of ``loss`` with respect to the synthetic set.

    loss: scalar, graph attached.
    batch: the synthetic examples of this step, before augmentation, graph attached.
    net: the network they were matched on; plug-ins may call it and must not change it.
    value: the matching loss itself, for the log and for gates; by default the value of ``loss``.
    gradient_norms: (k,) norms of d loss / d weights on the synthetic batches matched here, graph attached.
    norm_reduce: how the paper of this family adds them up: over classes (DC) or over inner steps (MTT).
    apply: whether to update; otherwise the step is only logged.
    log: further numbers for the log.
    caution: a warning to the user about this step, if any; the same text is shown once per run.
    """

    loss: Tensor
    batch: Batch
    net: nn.Module
    value: float | None = None
    gradient_norms: Tensor | None = None
    norm_reduce: Literal["sum", "mean"] = "sum"
    apply: bool = True
    log: dict[str, float] = field(default_factory=dict)
    caution: str = ""


class Group(Description):
    """Learning rate (0: not learned) and momentum of one parameter group; for Adam, momentum is beta1.

    clip: maximum gradient norm; larger gradients are scaled down to it (ours; none: no clipping). Exact gradients through
        many inner steps explode if that training is chaotic.
    """

    lr: float = Field(default=0.0, ge=0.0, le=1e30)
    momentum: float = Field(default=0.5, ge=0.0, lt=1.0)
    clip: float | None = Field(default=None, gt=0.0)


class Optim(Description):
    """How proposed updates change the synthetic set.

    images, labels, inner_lr (for the learned learning rate): the groups. ``parameters``: separate groups for single
        parameters of a parametrization, by name.
    schedule: of all learning rates over the run; "cosine" ends at 0.
    ema: decay of a running mean of the image parameters; if set, that mean is the result.
    """

    name: Literal["sgd", "adam"] = "sgd"
    images: Group = Group(lr=1.0)
    labels: Group = Group()
    inner_lr: Group = Group()
    parameters: dict[str, Group] = Field(default_factory=dict)
    schedule: Literal["constant", "cosine"] = "constant"
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    ema: float | None = Field(default=None, gt=0.0, lt=1.0)

    def group(self, name: str) -> Group:
        """The group of a parameter named as in ``SyntheticSet.groups``."""
        if name in ("labels", "inner_lr"):
            return self.labels if name == "labels" else self.inner_lr
        return self.parameters.get(name.removeprefix("images."), self.images)

    def factor(self, iteration: int, iterations: int) -> float:
        """Multiplier of every learning rate at this iteration."""
        return 1.0 if self.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * iteration / iterations))


class Part(Family):
    """What methods and plug-ins share: what they need before the first iteration."""

    def check(self, task: Task, ipc: int) -> None:
        """Check that it fits the task and ``ipc`` synthetic images per class, before any work. Raises InputError."""

    def prepare(self, task: Task) -> Mapping[str, Any]:
        """Prepare what is needed before the first iteration. Returns what the card records about it."""
        return {}

    def pools(self, network: Architecture) -> tuple[Pool, ...]:
        """The pools of teachers it queries in a run that matches on this network: its fields that are pools."""
        return tuple(value.for_network(network) for _, value in self if isinstance(value, Pool))


class Labeler(NamedTuple):
    """Labels real images the way a method labels its own: ``label`` takes a batch with class labels and returns
    probabilities (B, K); ``name`` identifies the labeler in files."""

    name: str
    label: Callable[[Batch], Tensor]


class Method(Part):
    """A distillation method: a generator of proposed updates, each applied before the next is requested.

    One iteration is a pure function of (synthetic set, task, iteration number, stream), so a run can stop and resume
    between any two; what has to be remembered besides is in ``task.kept``. A new method is a file in ``datastill/methods``,
    or a class of your own.
    """

    home: ClassVar[str] = "datastill.methods"
    provides: ClassVar[frozenset[str]] = frozenset()  # fields of its steps that plug-ins may need: "gradient_norms"

    iterations: int = Field(default=1000, ge=0, le=10**9)
    optim: Optim = Optim()

    @property
    def has_soft_labels(self) -> bool:
        """Whether its sets will have soft labels; by default not. A method that learns labels says so here."""
        return False

    @property
    def splits(self) -> bool:
        """Whether images of different numbers within their classes are distilled independently of each other, drawn from
        streams named by ``task.first`` + number: then the shards of a set together are the unbroken run's, bit for bit."""
        return False

    def class_unit(self, classes: int) -> int:
        """How many classes that follow each other are distilled together, of so many: a set may be distilled in parts of
        whole units (``Run.class_shard``). By default all."""
        return classes

    @property
    def has_learned_lr(self) -> bool:
        """Whether its sets will have a learning rate; by default not. A method that learns one says so here."""
        return False

    @abstractmethod
    def start(self, task: Task, ipc: int, rng: RNG) -> SyntheticSet:
        """The synthetic set to start from: ``task.synthetic(images, rng=rng("encode"))`` of ``ipc`` images of each class in
        class order. Where a stored image starts from several, that many more are asked for."""

    @abstractmethod
    def iterate(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> Iterator[Step]:
        """The updates of one iteration (0-based). ``rng`` is the iteration's own stream."""

    def renew(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> SyntheticSet | None:
        """A set that takes the place of the current one before this iteration, with a new optimizer, or None; for methods
        that work in stages. ``rng`` is the stream that ``start`` was given."""
        return None

    def memory(self, task: Task, ipc: int) -> Mapping[str, int]:
        """Estimated memory of individual settings: peak bytes beyond networks and data, by setting (``gradient=full``).
        ``datastill plan`` reports which of them fit."""
        return {}

    def rehearsal(self, task: Task, ipc: int) -> tuple[Method, Images, float]:
        """A small part of an iteration, for the first estimate of ``datastill plan``: the method, the training images to try
        it on, and how many times longer a whole iteration takes. By default it is tried on two of the classes."""
        rows = torch.cat(task.real.of_class[:2]).sort().values
        few = replace(task.real.subset(rows), classes=task.real.classes[:2])
        return self, few, len(task.here) / 2

    def labeler(self, task: Task) -> Labeler | None:
        """For sets with soft labels: what labels random real images, so that both are compared under the same kind of
        labels. It only queries teachers that already exist."""
        return None

    def conclusions(self, log: Sequence[Mapping[str, Any]]) -> Iterable[str]:
        """Warnings for the user at the end of a run, based on its whole log (one line per iteration)."""
        return ()


class Plugin(Part):
    """One extra loss term on a proposed update. A new one is a file in ``datastill/plugins``, or a class of your own.

    weight: of the term; with 0 the run is bit for bit the same as without the plug-in.
    balance: "fixed" adds weight x term; "gradient" makes ``weight`` the ratio of the term's gradient norm to the
        method's, both at the decoded images: a running geometric mean of measurements in the first ten iterations and then
        in every 20th, which stays within a factor of ten of where it began; "start" keeps that of the first ten.
    schedule: of the weight over the run: "linear" rises to the full weight at half of it, "log" as log(1 + iteration).
    label: the plug-in's name in logs and streams, by default its kind; allows two plug-ins of the same kind.
    """

    home: ClassVar[str] = "datastill.plugins"
    version: ClassVar[int] = 2  # 2: the ratio of gradients is a running mean
    needs: ClassVar[frozenset[str]] = frozenset()  # what the method must provide

    weight: float = Field(default=1.0, ge=0.0)
    balance: Literal["fixed", "gradient", "start"] = "fixed"
    schedule: Literal["constant", "linear", "log"] = "constant"
    label: str = ""

    @classmethod
    def _as_table(cls, given: Any) -> dict[str, Any]:
        if not isinstance(given, (str, Mapping)):
            raise InputError(f"expected a table like {{weight = 1.0}}, got {shown(given)}")
        return super()._as_table(given)

    @abstractmethod
    def loss(self, step: Step, task: Task, rng: RNG) -> Tensor:
        """The term, a scalar, unweighted; pure: changes neither the network nor the synthetic set."""

    def factor(self, iteration: int, iterations: int) -> float:
        """Multiplier of the weight at this iteration."""
        if self.schedule == "linear":
            return min(1.0, iteration / (0.5 * iterations))
        return math.log1p(iteration) / math.log1p(iterations) if self.schedule == "log" else 1.0


@cache
def _by_label() -> TypeAdapter[dict[str, Plugin]]:
    return TypeAdapter(dict[str, Plugin])


def _labeled(plugins: Any) -> Any:
    """Plug-ins in a table by label, as a tuple; the label is the kind, unless a kind is given."""
    if isinstance(plugins, Plugin):
        return (plugins,)
    if not isinstance(plugins, Mapping):
        return plugins
    tables: dict[str, Any] = {}
    for label, table in plugins.items():
        if isinstance(table, Plugin):
            tables[label] = table if label in (table.label, kind(table)) else table.model_copy(update={"label": label})
        else:
            named = {} if not isinstance(table, Mapping) or table.get("kind", label) == label else {"label": label}
            tables[label] = {"kind": label, **named, **table} if isinstance(table, Mapping) else table
    return tuple(_by_label().validate_python(tables).values())


Plugins = Annotated[tuple[Plugin, ...], BeforeValidator(_labeled)]  # a field that also takes a table by label


class Protocol(Family):
    """How students are trained on a set. A new one is a file in ``datastill/protocols``, or a class of your own.

    precision, channels_last: arithmetic ("float32", "tf32", "bfloat16") and memory layout of the training; the others are
        faster for large images on a GPU.
    """

    home: ClassVar[str] = "datastill.protocols"

    precision: Precision = "float32"
    channels_last: bool = False

    @abstractmethod
    def train(self, network: nn.Module, examples: Examples, rng: RNG, progress: Progress = Progress()) -> None:
        """Train a fresh network in place on what ``shown`` returned; its last weights are scored. ``progress`` is told of
        every epoch."""

    def criterion(self, logits: Tensor, y: Tensor) -> Tensor:
        """The loss of logits (B, K) under labels (B, K), a scalar, summed over the images; by default
        cross-entropy."""
        return cross_entropy(logits, y)

    def for_network(self, network: Architecture) -> Protocol:
        """The protocol with its settings for students of this kind filled in; scores are stored under that."""
        return self

    def for_set(self, lr: float | None) -> Protocol:
        """The protocol with what it takes from the set filled in: ``lr`` is the set's learned learning rate, if any."""
        return self

    def for_method(self, method: Method, network: Architecture) -> Protocol:
        """The protocol with what it takes from the method of a set, whose run has this network, filled in (its teachers)."""
        return self

    def for_full_data(self) -> Protocol:
        """The protocol for training on the full data, if that for the small set would take too long."""
        return self

    def pools(self, network: Architecture) -> tuple[Pool, ...]:
        """The pools of teachers that students of this kind learn from."""
        return ()

    def check(self, context: Context, network: Architecture) -> None:
        """Check that students of this kind can be trained on sets of this data, before any work. Raises InputError."""

    def shown(self, examples: Examples, context: Context, network: Architecture, rng: RNG, folder: Path | None = None,
              images: str = "") -> Examples:
        """The examples as students see them: by default as they are.

        rng: the stream of what is stored for all students. folder, images: where it is stored, and the checksum of the set;
        without a folder nothing is stored.
        """
        return examples

    @property
    def watched(self) -> Mapping[int, str]:
        """Epochs after which a student is measured too, for a rule of choosing the best: "last_fifth" or "prefixes"."""
        return {}

    def controls(self) -> dict[str, Protocol]:
        """Protocols by name that tell what is due to the labels and what to the images."""
        return {}


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
