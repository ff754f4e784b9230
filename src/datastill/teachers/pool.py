"""Pools of teachers: the description of a pool, its teachers, and a single teacher with its image domain."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from datastill.compute import double, send
from datastill.data import Images
from datastill.data.domain import Domain, bring, check_channels, domain_of
from datastill.description import Family
from datastill.digest import digest, spec
from datastill.errors import InputError
from datastill.foreign import is_foreign
from datastill.functional.batchnorm import OfClasses, Statistics, Watch, normalizations, statistics
from datastill.late import nn, no_grad, torch
from datastill.nets import Architecture, as_function, check_network, chunk_size, fresh, guard_network
from datastill.nets.convnet import ConvNet
from datastill.progress import Progress
from datastill.registry import kind
from datastill.rng import RNG
from datastill.store import once
from datastill.teachers._names import outputs_for

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Context:
    """What teachers are trained for, and where they are stored.

    real: the run's training images. root: the folder for results; teachers are stored in ``root/teachers``. data_root: where
    other datasets are. progress: receives the work done and the total, in epochs. dry_run: networks with random weights
    stand in for the teachers, nothing is trained or written (``datastill plan``).
    """

    real: Images
    root: Path
    data_root: Path
    progress: Progress = field(default_factory=Progress)
    dry_run: bool = False


@dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen network in evaluation mode, with the domain of the images it was trained on.

    ``gives`` lists what it can be queried for: "logits" of the classes of its domain, which need not be the run's,
    "features", "maps", and "statistics" of batch normalization.

    name: for logs and pages. group: index of its network in the pool. domain: of the images it was trained on. home: domain
    of the images passed to it. folder: where it is stored, with cached features of real images, or None. facts: what a card
    reports about it. stand_in: untrained, standing in for a teacher in a dry run.
    """

    name: str
    group: int
    network: nn.Module
    domain: Domain
    home: Domain
    folder: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    stand_in: bool = False

    def see(self, x: Tensor, *size: int) -> Tensor:
        """The run's images (B, C, H, W) as images of the teacher's domain, differentiable; of another ``size``, rows and
        columns, than it was trained on if asked, which whitening does not allow."""
        there = self.domain
        if size and there.whitening is None:
            there = replace(there, shape=(there.shape[0], size[0], size[1]))
        return bring(x, self.home, there)

    @cached_property
    def gives(self) -> frozenset[str]:
        """Which of "logits", "features", "maps" and "statistics" it provides."""
        return gives(self.network, self.domain)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (B, K) of the teacher's classes for the run's images (B, C, H, W). Raises InputError if it has none."""
        self._see_given("logits")
        return self.network(self.see(x))

    def class_logits(self, x: Tensor) -> Tensor:
        """Logits (B, K) of the run's classes in the run's order, for the run's images (B, C, H, W), without those of classes
        that only the teacher knows. Raises InputError if a class of the run has no output."""
        found = self.logits(x)
        return found if self.outputs is None else found[:, self.outputs]

    @cached_property
    def outputs(self) -> list[int] | None:
        """Which of its logits are those of the run's classes, in their order; None if they all are. Raises InputError."""
        if self.domain.classes == self.home.classes:
            return None
        try:
            return outputs_for(self.domain.classes, self.home.classes)
        except InputError as error:
            raise InputError(f"teacher {self.name} does not know the run's classes: {error}") from None

    def embed(self, x: Tensor) -> Tensor:
        """Features (B, D) before the classifier for the run's images (B, C, H, W)."""
        return self.network.embed(self.see(x))  # type: ignore[operator]

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps by name in order of depth, (B, C, H, W) or (B, D) each, for the run's images (B, C, H, W)."""
        return self.network.maps(self.see(x))  # type: ignore[operator]

    def statistics(self, x: Tensor) -> dict[str, Statistics]:
        """For every batch normalization layer by name, its running statistics and those of these images (B, C, H, W) of the
        run, differentiable; see ``functional.batchnorm``. Raises InputError if the network has no such layer."""
        self._see_given("statistics")
        return statistics(self.network, self.see(x))

    def watched(self, seen: Tensor) -> tuple[Tensor, dict[str, Statistics]]:
        """Logits (B, K) of the teacher's classes, and the same statistics, for images (B, C, H, W) that it ``see``s, in one
        pass; differentiable once, with respect to the images."""
        with self._watch as found:
            return self.network(seen), found

    @cached_property
    def _watch(self) -> Watch:
        return Watch(self.network, once=True)

    @cached_property
    def for_run(self) -> nn.Module:
        """A network for the run's images with logits of the run's classes: the teacher's, if they are the same. Raises
        InputError if it has no such logits."""
        if self.domain.looks_like(self.home) and self.outputs is None:
            return self.network
        from datastill.teachers._for_run import ForRun

        return ForRun(self)

    def class_statistics(self, real: Images) -> dict[str, OfClasses]:
        """For every batch normalization layer by name, mean and variance of its input over the images of each class;
        computed once, then read from disk. Raises InputError if the network has no such layer."""
        self._see_given("statistics")
        key = f"statistics of {real.fingerprint}"
        if key not in self._kept:
            self._kept[key] = self._read_class_statistics(real)
        found: dict[str, OfClasses] = self._kept[key]
        return found

    def _read_class_statistics(self, real: Images) -> dict[str, OfClasses]:
        if self.folder is None or self.stand_in:
            return of_classes(self, real)
        path = self.folder / f"statistics-{self.facts['epoch']}-{real.fingerprint}.safetensors"

        from safetensors.torch import load as load_tensors
        from safetensors.torch import save as save_tensors

        def write(aside: Path) -> None:
            found = of_classes(self, real)
            aside.write_bytes(save_tensors({f"{name}.{part}": value.cpu().contiguous() for name, one in found.items()
                                            for part, value in one._asdict().items()}))

        tensors = load_tensors(once(path, write).read_bytes())
        return {name: OfClasses(*(tensors[f"{name}.{part}"].to(real.device) for part in OfClasses._fields))
                for name in normalizations(self.network)}

    def _see_given(self, what: str) -> None:
        if what not in self.gives:
            raise InputError(_gives_no(what, self.name, self.gives))

    def chunk(self, x: Tensor) -> int:
        """How many images of the size of ``x`` to process at once."""
        one = self.see(x[:1].detach())
        return chunk_size(self.network, one.expand(len(x), -1, -1, -1))

    def directions(self, real: Images) -> np.ndarray:
        """Features of these real images at unit norm, (N, D) float32; computed once, then memory-mapped from disk."""
        if self.stand_in:
            width = self.embed(real.batch(torch.zeros(1, dtype=torch.long)).x).shape[1]
            return np.broadcast_to(np.float32(width**-0.5), (len(real), width))
        if real.fingerprint not in self._known:
            self._known[real.fingerprint] = self._read_directions(real)
        return self._known[real.fingerprint]

    @cached_property
    def _known(self) -> dict[str, np.ndarray]:
        return {}

    @cached_property
    def _kept(self) -> dict[str, Any]:
        return {}

    def _read_directions(self, real: Images) -> np.ndarray:
        if self.folder is None:
            return np.concatenate(list(self._compute_directions(real)))
        path = self.folder / f"features-{self.facts['epoch']}-{real.fingerprint}.npy"
        return np.load(once(path, lambda aside: self._write_directions(real, aside)), mmap_mode="r")

    def _write_directions(self, real: Images, path: Path) -> None:
        with path.open("wb") as target:
            for number, unit in enumerate(self._compute_directions(real)):
                if not number:
                    np.lib.format.write_array_header_1_0(target, {
                        "descr": np.lib.format.dtype_to_descr(unit.dtype), "fortran_order": False,
                        "shape": (len(real), unit.shape[1])})
                target.write(unit.tobytes())

    def _compute_directions(self, real: Images) -> Iterator[np.ndarray]:
        for rows in torch.arange(len(real)).split(1024):
            x = real.batch(rows).x
            with torch.no_grad():
                features = torch.cat([self.embed(part) for part in x.split(self.chunk(x))])
            yield torch.nn.functional.normalize(features, dim=1).cpu().numpy()


@no_grad
def of_classes(teacher: Teacher, real: Images) -> dict[str, OfClasses]:
    """Mean and variance of the input of every batch normalization layer over the images of each class, in float64 sums."""
    found: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in normalizations(teacher.network)}
    for rows in real.of_class:
        if not len(rows):
            raise InputError("statistics of classes need at least one image of each")
        sums: dict[str, Tensor] = {}
        for part in rows.split(512):
            x = teacher.see(real.batch(part).x)
            for some in x.split(teacher.chunk(x)):
                for name, one in teacher.watched(some)[1].items():
                    mean = double(one.mean)
                    part_sum = len(some) * torch.stack([mean, double(one.var) + mean.square()])
                    sums[name] = sums[name] + part_sum if name in sums else part_sum
        for name, total in sums.items():
            mean, square = total / len(rows)
            found[name][0].append(mean)
            found[name][1].append(square - mean.square())
    like = next(teacher.network.parameters())
    return {name: OfClasses(torch.stack(means).to(like), torch.stack(variances).to(like))
            for name, (means, variances) in found.items()}


def gives(network: nn.Module, domain: Domain) -> frozenset[str]:
    """What a teacher with this network provides: always features and feature maps, logits if its domain has classes,
    statistics if it has batch normalization with running statistics."""
    return frozenset({"features", "maps", *(["logits"] if domain.classes else []),
                      *(["statistics"] if normalizations(network) else [])})


def _gives_no(what: str, name: str, given: Collection[str]) -> str:
    why = " because it has no batch normalization with running statistics" if what == "statistics" else ""
    advice = "; take a network with it, such as resnet18 or convnet:norm=batch" if why else ""
    return f"teacher {name} does not provide {what}{why}; it provides {', '.join(sorted(given))}{advice}"


def listed(classes: tuple[str, ...]) -> str:
    """The first of them, and how many there are: ``10 (airplane, automobile, bird, ...)``."""
    return f"{len(classes)} ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''})"


class Trajectory:
    """The weights of one teacher at the stored epochs of its training; ``read`` returns those of an epoch, (P,)."""

    def __init__(self, read: Callable[[int], Tensor], device: torch.device) -> None:
        self._read, self._device = read, device

    def weights(self, epoch: int) -> Tensor:
        """All parameters as one vector (P,), in network order. Raises InputError for an epoch that is not stored."""
        return send(self._read(epoch), self._device)


class Pool(Family):
    """Networks trained on real data: ``networks``, each with ``size`` members; if empty, the run's own network.

    Teachers are shared between pools: each is stored under a digest of only what determines it, whichever pool requests it.
    To add a kind of pool, put a class into a file in ``datastill/teachers``, or outside.
    """

    home: ClassVar[str] = "datastill.teachers"

    networks: tuple[Architecture, ...] = (ConvNet(),)

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of members of each network."""

    @abstractmethod
    def domain(self, context: Context, group: int = 0) -> Domain:
        """Domain of the images that the teachers of network ``group`` are trained on. Raises InputError."""

    @abstractmethod
    def load(self, context: Context, group: int, number: int) -> Teacher:
        """One teacher, ready to use. Raises InputError if it is missing or damaged, or its shapes do not match."""

    def trajectory(self, context: Context, number: int) -> Trajectory:
        """Training trajectory of member ``number`` of the first network. Raises InputError."""
        raise InputError(f"a pool of kind {kind(self)} stores no trajectories; use experts")

    def for_network(self, network: Architecture) -> Self:
        """The pool, with the run's network if it names none."""
        return self if self.networks else self.model_copy(update={"networks": (network,)})

    def fit(self, images: Any, *, root: Path | str = "outputs", data_root: Path | str = "data",
            progress: Progress | None = None) -> Teachers:
        """Train the missing teachers for these training images (``Images``, or any map-style dataset), in ``root/teachers``,
        and return all of them. If the pool names no networks, ``ConvNet()`` is used. Raises InputError, RunError."""
        images = Images.from_dataset(images)
        pool, context = self.for_network(ConvNet()), Context(images, Path(root), Path(data_root), progress or Progress())
        pool.check(context)
        pool.prepare(context)
        return Teachers(pool, context)

    def digest(self, *more: str) -> str:
        """Digest of the pool's settings and ``more``, used in names. If the default is the run's own network, ``ConvNet()``
        counts as not given: it used to be the default, and existing teachers keep their names."""
        default = type(self).model_fields["networks"].default
        plain = self.networks == (ConvNet(),) and default == ()
        return digest(self.model_copy(update={"networks": ()}) if plain else self, *more)

    def members(self) -> list[tuple[int, int]]:
        """(network, number) of each of its teachers, in order. Raises InputError if no network is named."""
        if not self.networks:
            raise InputError("pool.networks is empty, which means the run's own network, but there is no run here; "
                             "name a network")
        return [(group, number) for group in range(len(self.networks)) for number in range(self.size)]

    def only(self, group: int) -> Self:
        """The pool with only one of its networks."""
        return self if len(self.networks) == 1 else self.model_copy(update={"networks": (self.networks[group],)})

    def alone(self, group: int, number: int) -> Self:
        """A pool with only one of its teachers."""
        return self.model_copy(update={"networks": (self.networks[group],)})

    def check(self, context: Context, asked: Collection[str] = ()) -> None:
        """Check, before any work, that such teachers can be built and provide what is ``asked``: what ``Teacher.gives``, or
        "class_logits", those of the run's classes. Raises InputError."""
        self.members()
        for group, network in enumerate(self.networks):
            domain = self.domain(context, group)
            check_channels(domain_of(context.real), domain)
            check_network(network, domain.shape, len(domain.classes), context.real.device)
            net = fresh(network, domain.shape, len(domain.classes), RNG("check"), context.real.device)
            wanted = {"logits" if one == "class_logits" else one for one in asked}
            if lacking := sorted(wanted - (given := gives(net, domain))):
                raise InputError(_gives_no(lacking[0], spec(network), given))
            if "class_logits" in asked:
                self._check_classes(domain.classes, context.real.classes, network)

    def _check_classes(self, theirs: tuple[str, ...], ours: tuple[str, ...], network: Architecture) -> None:
        try:
            outputs_for(theirs, ours)
        except InputError as error:
            same = "; if the outputs are these classes in this order, set classes=run in a pretrained pool" \
                if len(theirs) == len(ours) else ""
            raise InputError(f"teachers have to know the run's classes, {listed(ours)}: {spec(network)} of pool "
                             f"{kind(self)} knows {listed(theirs)}, and {error}{same}") from None

    def prepare(self, context: Context) -> None:
        """Train or load what is missing. Raises InputError, RunError."""

    def facts(self, context: Context) -> list[dict[str, Any]]:
        """What a card reports about each of its teachers, in order, once they exist; does not keep them loaded."""
        return [dict(self.load(context, group, number).facts) for group in range(len(self.networks))
                for number in range(self.size)]

    def places(self, context: Context) -> list[Path]:
        """Folder of each of its teachers, in order; empty if it has no folders of its own."""
        return []

    def missing(self, context: Context) -> int:
        """Number of teachers still to be trained."""
        return 0

    def seconds(self, context: Context) -> float:
        """Estimated seconds for training what is missing, from a short measurement; nothing is written."""
        return 0.0

    def mend(self, context: Context) -> None:
        """Delete damaged teachers, so that they are trained again."""

    def identity(self, data_root: Path) -> tuple[str, ...]:
        """What determines its teachers besides the description and the run's data: content of other datasets and files."""
        return ()


class Teachers:
    """The teachers of a pool, each loaded on first use."""

    def __init__(self, pool: Pool, context: Context) -> None:
        self.pool, self.context, self._members = pool, context, pool.members()
        self._loaded: dict[tuple[int, int], Teacher] = {}
        self._trajectories: dict[tuple[int, int], Trajectory] = {}

    def __repr__(self) -> str:
        networks = ", ".join(map(spec, self.pool.networks))
        return f"<datastill.Teachers: {len(self)} of kind {kind(self.pool)}: {networks}>"

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, number: int) -> Teacher:
        """In pool order: the members of the first network, then those of the second."""
        return self.teacher(*self._members[number])

    def __iter__(self) -> Iterator[Teacher]:
        return (self.teacher(*member) for member in self._members)

    def teacher(self, group: int, number: int) -> Teacher:
        """Member ``number`` of the pool's network ``group``. Raises InputError."""
        if (group, number) not in self._loaded:
            self._loaded[group, number] = self._stand_in(group) if self.context.dry_run else \
                self.pool.load(self.context, group, number)
            if is_foreign(cls := type(self.pool)):
                guard_network(self._loaded[group, number].network, f"teacher {group}, {number} of {kind(cls)}", cls)
        return self._loaded[group, number]

    def trajectory(self, number: int, group: int = 0) -> Trajectory:
        """Training trajectory of member ``number`` of the pool's network ``group``. Raises InputError."""
        if (group, number) not in self._trajectories:
            self._trajectories[group, number] = self._wander(group, number) if self.context.dry_run else \
                self.pool.only(group).trajectory(self.context, number)
        return self._trajectories[group, number]

    def draw(self, rng: RNG) -> Teacher:
        """A random teacher: a network uniformly, then one of its members."""
        pick = rng.numpy()
        return self.teacher(int(pick.integers(len(self.pool.networks))), int(pick.integers(self.pool.size)))

    def _wander(self, group: int, number: int) -> Trajectory:
        """Stands in for a trajectory in a dry run: the weights of an untrained network, moved slightly each epoch."""
        start = as_function(self._stand_in(group).network)[0].cpu()
        away = 0.01 * RNG("wander", number).normal(len(start))
        return Trajectory(lambda epoch: start + epoch * away, self.context.real.device)

    def _stand_in(self, group: int) -> Teacher:
        domain, network = self.pool.domain(self.context, group), self.pool.networks[group]
        net = fresh(network, domain.shape, len(domain.classes), RNG("stand-in", group), self.context.real.device)
        return Teacher(spec(network), group, frozen(net), domain, domain_of(self.context.real), stand_in=True)


def frozen(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, with ``requires_grad`` off."""
    return network.eval().requires_grad_(False)
