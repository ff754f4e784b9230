"""The interfaces of the library: what a method yields (Step), how updates are applied (Optim), and the families to extend:
Method, Plugin, Protocol. What a method is given is in task.py."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field, TypeAdapter

from datastill.compute import Precision
from datastill.data import Batch, Images
from datastill.description import Description, Family
from datastill.errors import InputError
from datastill.late import nn, torch
from datastill.nets import Architecture
from datastill.progress import Progress
from datastill.registry import kind
from datastill.rng import RNG
from datastill.tables import shown
from datastill.task import Task
from datastill.teachers import Context, Pool
from datastill.train import Examples, cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.synthetic import SyntheticSet


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

    def rates(self, names: Iterable[str]) -> str:
        """For messages: where the learning rates of these parameters of the images are set, and what they are."""
        found = {f"method.optim.parameters.{name}.lr" if name in self.parameters else "method.optim.images.lr":
                 self.parameters.get(name, self.images).lr for name in names}
        return ", ".join(f"{where} is {lr:g}" for where, lr in found.items())

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
