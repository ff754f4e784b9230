"""``Run``: the frozen description of everything that determines a distilled set; and the checks before it is distilled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from datastill import artifact
from datastill.compute import Precision
from datastill.core import Method, Part, Plugin, Plugins, Protocol
from datastill.data import Data, Images
from datastill.description import NOT_DECISIVE, Description, load
from datastill.digest import digest, spec
from datastill.errors import InputError
from datastill.loop import OWN, check_codec, check_optim
from datastill.nets import Architecture, check_network
from datastill.nets.convnet import ConvNet
from datastill.parametrization import PARAMETRIZATION, Parametrization
from datastill.parametrizations.pixels import Pixels
from datastill.previous import origin
from datastill.progress import Progress
from datastill.registry import find, kind, members
from datastill.rng import RNG
from datastill.tables import counted, read_toml
from datastill.task import Task, check_ipc
from datastill.teachers import Pool

if TYPE_CHECKING:
    pass

BESIDE = ("protocol", "published", "started_from", "code")  # what run.toml stores beside the run
RESERVED = {*OWN, PARAMETRIZATION}  # names the log and the card use themselves


class Run(Description):
    """Everything that determines a distilled set: the same run on the same data gives the same set. On a CPU bit for bit; on
    a GPU up to rounding, or bit for bit with ``deterministic``, one kind of GPU and one torch version (the card has both).

    ipc: synthetic images per class. plugins: a table by name in TOML, a tuple in Python.
    shard: which part of the whole set to distill, (i, n): part i of n of the images of every class, starting from real
        images that no other part starts from. A run of its own, for sets that do not fit in memory; ``datastill merge``
        merges the parts. ``ipc`` is that of the whole.
    class_shard: likewise (j, m), part j of m of the classes, for methods that recover images from frozen networks; together
        with ``shard`` a part of a grid. The parts are those of the unbroken run.
    start_from: folder of a finished set to continue from; images it does not have start as the method says.
    with_replacement: whether a class of fewer images than ``ipc`` starts from each of them several times, so that every
        class still has ``ipc`` images; otherwise such a run is refused. Equal images stay equal if nothing random tells them
        apart.
    precision: "float32" disables TF32 on a GPU. "tf32" allows it for matrix products and convolutions, except where
        teachers and other networks are trained along the way. "bfloat16" applies to the networks whose features are
        matched, faster if the processor has instructions for it; matched gradients, and students, stay float32. Both
        change the result by rounding.
    deterministic: whether torch uses deterministic kernels, which are slower, on a device other than a CPU.
    """

    method: Method
    plugins: Plugins = ()
    parametrization: Parametrization = Pixels()
    data: Data = Data()
    network: Architecture = ConvNet()
    ipc: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    shard: tuple[int, int] = (0, 1)
    class_shard: tuple[int, int] = (0, 1)
    with_replacement: bool = False
    start_from: Annotated[str | None, NOT_DECISIVE] = None  # its content is decisive: see digest
    precision: Precision = "float32"
    deterministic: Annotated[bool, NOT_DECISIVE] = False

    @model_validator(mode="after")
    def _is_a_shard(self) -> Run:
        number, of = self.shard
        if not 0 <= number < of:
            raise ValueError(f"shard: expected [i, n] with i of 0 to n - 1, got {list(self.shard)}")
        if of > self.ipc:
            raise ValueError(f"shard: {of} parts of {counted(self.ipc, 'image')} per class; use {counted(self.ipc, 'part')} "
                             "or fewer")
        return self

    @model_validator(mode="after")
    def _is_a_class_shard(self) -> Run:
        number, of = self.class_shard
        if not 0 <= number < of:
            raise ValueError(f"class_shard: expected [j, m] with j of 0 to m - 1, got {list(self.class_shard)}")
        if of > 1 and self.start_from is not None:
            raise ValueError("class_shard: a part of the classes cannot continue from a set; leave out start_from")
        return self

    @model_validator(mode="after")
    def _labels_differ(self) -> Run:
        labels = [label(plugin) for plugin in self.plugins]
        for name in labels:
            if labels.count(name) > 1 or name in RESERVED or name.startswith("share."):
                raise ValueError(f"plugins: the name {name!r} is taken; give the plug-in another label")
        return self

    def task(self, real: Any, *, root: Path | str = "outputs", data_root: Path | str = "data",
             progress: Progress = Progress()) -> Task:
        """What the method may look at, on these training images (and on their device), ``Images`` or any map-style dataset.

        root: folder for results; teachers are stored in ``root/teachers``. data_root: folder of other datasets.
        """
        real = Images.from_dataset(real)
        return Task(real, self.network, self.parametrization, self.precision, progress, Path(root),
                    Path(data_root), ipc=self.ipc, first=self.rows.start if self.method.splits else 0,
                    some=None if self.class_shard == (0, 1) else self.classes(len(real.classes)))

    def pools(self) -> tuple[Pool, ...]:
        """The pools of teachers that its method and its plug-ins query, without plug-ins of weight 0."""
        return tuple(pool for part in asked(self).values() for pool in part.pools(self.network))

    def architectures(self) -> set[str]:
        """The architectures it has seen when it is finished: those it matches on, and those of its pools of teachers."""
        matched = getattr(self.method, "networks", ()) or [self.network]  # a model pool takes the place of the network
        return {spec(network) for networks in (matched, *(pool.networks for pool in self.pools())) for network in networks}

    @property
    def rows(self) -> range:
        """Which of the whole set's stored images of each class it distills; all of them unless it is a shard."""
        number, of = self.shard
        return range(self.ipc * number // of, self.ipc * (number + 1) // of)

    def classes(self, of: int) -> range:
        """Which of so many classes it distills: all of them unless it is a class shard. Raises InputError."""
        number, parts = self.class_shard
        unit = self.method.class_unit(of)
        units = -(-of // unit)
        if parts > units:
            raise InputError(f"class_shard: {counted(parts, 'part')}, but {kind(self.method)} distills "
                             f"{counted(unit, 'class')} together, which makes {counted(units, 'part')} of {of} classes at "
                             "most")
        return range(units * number // parts * unit, min(of, units * (number + 1) // parts * unit))

    def digest(self, real: Images, data_root: Path | str = "data", started_from: Mapping[str, str] | None = None) -> str:
        """Name of the result of this run on these training images (other data of its teachers are in ``data_root``).

        started_from: the origin of the set it starts from (``previous.origin``), by default read from its folder.
        """
        known = [name for pool in self.pools() for name in pool.identity(Path(data_root))]
        known += self.parametrization.identity()
        if self.start_from is not None:
            known.append((started_from or origin(Path(self.start_from)))["checksum"])
        return digest(self, real.fingerprint, *known)

    def label(self, real: Images, data_root: Path | str = "data") -> str:
        """Folder name: method, data, ipc and the digest."""
        method, data = (name.rpartition(":")[2] for name in (kind(self.method), self.data.name))
        return f"{method}-{data}-ipc{self.ipc}-{self.digest(real, data_root)}"


def label(plugin: Plugin) -> str:
    """The plug-in's name in logs and streams: its label, or its kind."""
    return plugin.label or kind(plugin)


def check_run(run: Run, images: Images, *, root: Path | str = "outputs", data_root: Path | str = "data",
              progress: Progress = Progress()) -> Task:
    """Check that the run is possible on these training images. Returns its task (see ``Run.task``); raises InputError with
    what to change."""
    task = run.task(images, root=root, data_root=data_root, progress=progress)
    real, (number, of) = images, run.shard
    if not run.with_replacement:
        check_ipc(real, run.ipc, ", or with_replacement=true to use images of small classes several times")
    smallest = min(range(task.classes), key=lambda c: len(real.of_class[c]))
    there, ipc = len(real.of_class[smallest]), len(run.rows)
    own = there if run.method.splits else len(real.of_class[smallest][number::of])
    if own < (1 if run.with_replacement else ipc):
        advice = f"use ipc={most} or less" if (most := there // of * of) else f"use at most {counted(there, 'part')}"
        raise InputError(f"shard {number} of {of} needs {counted(ipc, 'image')} per class, but starts from only {own} of "
                         f"the {counted(there, 'training image')} of class {real.classes[smallest]!r} (one in {of}); "
                         f"{advice}")
    if of > 1 and not run.method.splits:
        progress.warn(f"{kind(run.method)} distills the images of a class together, so that {counted(of, 'part')} are not "
                      "what one run would make of them")
    if (of > 1 or run.class_shard[1] > 1) and run.method.splits and (why := _ties(run)):
        progress.warn(f"{why} of a part, not of the whole set, so that the parts are not what one run would make of them")
    _check_needs(run)
    run.parametrization.check(task, ipc)
    check_network(run.network, real.shape, task.classes, real.device)
    method = run.method
    whole = replace(task, some=None, dry_run=True)  # what an encoder prepares need not be there yet
    lr = 1.0 if method.has_learned_lr else None
    probe = whole.synthetic(task.random_real(run.parametrization.starts, RNG("check")), method.has_soft_labels, lr)
    check_codec(probe, run.parametrization)
    check_optim(method, probe)
    _check_learns(method, list(probe.groups()), progress)
    for name, part in asked(run).items():
        try:
            part.check(task, ipc)
        except InputError as error:  # whose network does not fit? A plug-in's may be one that nobody named
            if name == "method" or name in str(error):
                raise
            raise InputError(f"{name}: {error}") from error
    return task


def _ties(run: Run) -> str:
    """What ties the images of a set together although the method does not, in words; "" if nothing does."""
    if weighted := [kind(plugin) for plugin in run.plugins if plugin.weight]:
        return f"plug-in {weighted[0]} sees the images"
    clipped = run.method.optim.images.clip or any(one.clip for one in run.method.optim.parameters.values())
    return "method.optim clips the gradient of the images" if clipped else ""


def _check_learns(method: Method, names: Sequence[str], progress: Progress) -> None:
    """Check that a method that iterates learns something; says so if it does not iterate. Raises InputError."""
    if method.iterations and not any(method.optim.group(name).lr for name in names):
        images = [name.removeprefix("images.") for name in names if name.startswith("images.")]
        raise InputError(f"nothing is learned: every learning rate of {kind(method)} is 0 ({method.optim.rates(images)}); "
                         "set one, or use method=random for real images")
    if not method.iterations and type(method).model_fields["iterations"].default:
        progress.warn("method.iterations is 0: nothing is learned, the set is what the method starts from")


def _check_needs(run: Run) -> None:
    """Check that the method provides what the plug-ins need, and that they have an effect. Raises InputError."""
    for plugin in run.plugins if run.method.iterations else ():
        if plugin.weight and not any(plugin.factor(i, run.method.iterations) for i in {0, run.method.iterations - 1}):
            raise InputError(f"plug-in {plugin.label or kind(plugin)}: its {plugin.schedule} schedule begins at 0 and is "
                             f"still 0 after {counted(run.method.iterations, 'iteration')}; use more iterations, or "
                             "schedule=constant")
    for named in (run.method, *run.plugins):
        for what in ("provides", "needs"):
            found: object = getattr(named, what, frozenset())
            if not isinstance(found, Set):
                raise InputError(f"{kind(named)}.{what} is {found!r}; expected a set of names, as in "
                                 "frozenset({'gradient_norms'})")
    for plugin in (plugin for plugin in run.plugins if plugin.weight > 0):
        if lacking := plugin.needs - run.method.provides:
            fit = [name for name in members(Method) if plugin.needs <= find(Method, name).provides]
            raise InputError(f"plug-in {label(plugin)} needs {', '.join(sorted(lacking))}, which the steps of "
                             f"{kind(run.method)} do not provide; methods that do: {', '.join(fit) or 'none'}")


def check_protocol(run: Run, protocol: Protocol) -> None:
    """Check that sets like the run's can be scored by a protocol. Raises InputError."""
    protocol.for_set(1.0 if run.method.has_learned_lr else None)


def asked(run: Run) -> dict[str, Part]:
    """The method and the plug-ins of positive weight, by their names in the log."""
    return {"method": run.method, **{label(plugin): plugin for plugin in run.plugins if plugin.weight > 0}}


def run_table(folder: Path) -> dict[str, Any]:
    """The table in a folder's run.toml. Raises InputError: damaged, or that of another run than the set beside it."""
    if not (folder / "run.toml").exists() and (folder / artifact.CARD).exists():
        raise InputError(f"{folder} has a set but no run.toml, which says how it was distilled; restore it from a copy")
    table = read_toml(folder / "run.toml")
    if (folder / artifact.CARD).exists() and table.get("digest") != artifact.read_card(folder)["digest"]:
        raise InputError(f"{folder / 'run.toml'} is that of another run than the set beside it; restore it from a copy")
    return table


def read_run(folder: Path) -> Run:
    """The run that a folder belongs to. Raises InputError."""
    table = run_table(folder)
    try:
        return load(Run, {key: value for key, value in table.items() if key not in ("digest", *BESIDE)})
    except InputError as error:
        raise InputError(f"{folder / 'run.toml'}: {error}") from None
