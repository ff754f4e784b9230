"""``Run``: the frozen description of everything that decides a distilled set; and ``distill``, which carries it out."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from datastill import artifact, checkpoint
from datastill.compute import Precision, computing, facts
from datastill.core import Labeler, Method, Part, Plugin, Plugins, Protocol, Task
from datastill.data import Data, Images
from datastill.description import NOT_DECISIVE, Description, load
from datastill.digest import digest, dump, spec, to_toml
from datastill.errors import InputError, RunError, Stopped
from datastill.files import reason, write_atomically
from datastill.loop import Loop, check_optim
from datastill.nets import Architecture
from datastill.nets.convnet import ConvNet
from datastill.parametrization import Parametrization
from datastill.parametrizations.pixels import Pixels
from datastill.previous import Previous, origin, read_previous
from datastill.progress import Progress
from datastill.registry import find, kind, members
from datastill.rng import RNG
from datastill.store import Entry
from datastill.tables import read_toml, read_versioned
from datastill.teachers import Pool

if TYPE_CHECKING:
    from datastill.synthetic import SyntheticSet

BESIDE = ("protocol", "published", "started_from")  # what run.toml keeps beside the run
PARAMETRIZATION = "parametrization"
RESERVED = {"method", "iteration", "loss", "time", PARAMETRIZATION}  # names the log and the card use themselves


class Run(Description):
    """Everything that decides a distilled set: the same run on the same data gives the same set. On a CPU bit for bit; on a
    GPU up to rounding, and bit for bit with ``deterministic`` on one kind of GPU with one torch version (the card has both).

    ipc: synthetic images per class. plugins: a table by name in TOML, a tuple in Python.
    shard: which part of the whole set it makes, (i, n): part i of n of the images of every class, from real images no other
        part starts from. A run of its own, for sets that are too large for one memory; ``datastill merge`` puts the parts
        together. ``ipc`` is that of the whole.
    start_from: folder of a finished set to go on from; images it has none for begin as the method says.
    precision: "float32" keeps a GPU from TF32. "tf32" lets it take TF32 for matrix products and convolutions, but where
        teachers and other networks are trained on the way. "bfloat16" is of the networks whose features are matched, faster
        where the processor has instructions for it; gradients that are matched, and students, stay float32. Both change the
        result by rounding.
    deterministic: whether torch is to take deterministic kernels, slower, on a device that is not a CPU.
    """

    method: Method
    plugins: Plugins = ()
    parametrization: Parametrization = Pixels()
    data: Data = Data()
    network: Architecture = ConvNet()
    ipc: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    shard: tuple[int, int] = (0, 1)
    start_from: Annotated[str | None, NOT_DECISIVE] = None  # what lies there does decide: see digest
    precision: Precision = "float32"
    deterministic: Annotated[bool, NOT_DECISIVE] = False

    @model_validator(mode="after")
    def _is_a_shard(self) -> Run:
        number, of = self.shard
        if not 0 <= number < of:
            raise ValueError(f"shard: expected [i, n] with i of 0 to n - 1, got {list(self.shard)}")
        if of > self.ipc:
            raise ValueError(f"shard: {of} parts of {self.ipc} images a class; use {self.ipc} parts or fewer")
        return self

    @model_validator(mode="after")
    def _labels_differ(self) -> Run:
        labels = [label(plugin) for plugin in self.plugins]
        for name in labels:
            if labels.count(name) > 1 or name in RESERVED or name.startswith("share."):
                raise ValueError(f"plugins: the name {name!r} is taken; give the plug-in another label")
        return self

    def task(self, real: Images, *, root: Path | str = "outputs", data_root: Path | str = "data",
             progress: Progress = Progress()) -> Task:
        """What the method may look at, on these training images (and on their device).

        root: folder for results; teachers are made and found in ``root/teachers``. data_root: of other datasets.
        """
        return Task(real, self.network, self.parametrization, self.precision, progress, Path(root), Path(data_root))

    def pools(self) -> tuple[Pool, ...]:
        """The pools of teachers its method and its plug-ins ask, those of weight 0 left out."""
        return tuple(pool for part in _asked(self).values() for pool in part.pools(self.network))

    @property
    def rows(self) -> range:
        """Which of the whole set's stored images of each class it makes; all but for a shard."""
        number, of = self.shard
        return range(self.ipc * number // of, self.ipc * (number + 1) // of)

    def digest(self, real: Images, data_root: Path | str = "data", started_from: Mapping[str, str] | None = None) -> str:
        """Name of the result of this run on these training images (other data its teachers know are in ``data_root``).

        started_from: what is known of the set it starts from (``previous.origin``), read from its folder unless given.
        """
        known = [name for pool in self.pools() for name in pool.identity(Path(data_root))]
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
    """Check that the run can be carried out on these training images. Returns its task (see ``Run.task``); raises InputError
    with what to change."""
    task = run.task(images, root=root, data_root=data_root, progress=progress)
    real, (number, of) = images, run.shard
    smallest = min(range(task.classes), key=lambda c: len(real.of_class[c]))
    if (there := len(real.of_class[smallest])) < run.ipc:
        raise InputError(f"ipc {run.ipc} is more than the {there} training images of class "
                         f"{real.classes[smallest]!r}; use ipc={there} or less")
    if (own := len(real.of_class[smallest][number::of])) < (ipc := len(run.rows)):
        raise InputError(f"shard {number} of {of} makes {ipc} images a class and starts from every {of}th of the {there} "
                         f"training images of class {real.classes[smallest]!r}, which are {own}; use ipc={there // of * of} "
                         "or less")
    _check_needs(run)
    run.parametrization.check(task, ipc)
    probe = task.fresh(RNG("check"))
    logits = probe.eval()(task.real.batch(real.of_class[0][:1]).x)
    if logits.shape != (1, task.classes):
        raise InputError(f"network {spec(run.network)} gives an output of shape {tuple(logits.shape[1:])} for an image; "
                         f"expected ({task.classes},), one number a class")
    method = run.method
    check_optim(method, task.synthetic(task.random_real(1, RNG("check")), method.has_soft_labels,
                                       1.0 if method.has_learned_lr else None))
    for part in _asked(run).values():
        part.check(task, ipc)
    return task


def _check_needs(run: Run) -> None:
    """Check that the method provides what the plug-ins need. Raises InputError."""
    for plugin in (plugin for plugin in run.plugins if plugin.weight > 0):
        if lacking := plugin.needs - run.method.provides:
            fit = [name for name in members(Method) if plugin.needs <= find(Method, name).provides]
            raise InputError(f"plug-in {label(plugin)} needs {', '.join(sorted(lacking))}, which the steps of "
                             f"{kind(run.method)} do not have; methods whose steps do: {', '.join(fit) or 'none'}")


def check_protocol(run: Run, protocol: Protocol) -> None:
    """Check that sets such as the run's can be scored by a protocol. Raises InputError."""
    protocol.for_set(1.0 if run.method.has_learned_lr else None)


def _asked(run: Run) -> dict[str, Part]:
    """The method and the plug-ins that are called at all, by the names the log has for them."""
    return {"method": run.method, **{label(plugin): plugin for plugin in run.plugins if plugin.weight > 0}}


def labeler(run: Run, task: Task) -> Labeler | None:
    """What gives random real images labels of the kind the run's set has; None where it has hard ones, or where teachers it
    takes are not there (to score a set none are made). Raises InputError for one that is damaged."""
    pools = run.method.pools(run.network)
    if any(pool.missing(task.context) for pool in pools):
        return None
    if (found := run.method.labeler(task)) is not None:
        for pool in pools:
            list(task.teachers(pool))  # loads them
    return found


def prepare(run: Run, task: Task) -> dict[str, Any]:
    """Make what method and plug-ins need; returns what the card is to say of it, by name. Raises InputError, RunError."""
    made = {PARAMETRIZATION: run.parametrization.prepare(task),
            **{name: part.prepare(task) for name, part in _asked(run).items()}}
    return {name: facts for name, facts in made.items() if facts}


def begin(run: Run, task: Task, previous: Previous | None = None) -> Loop:
    """The loop of a run before its first iteration; ``previous`` is the set it goes on from (``read_start``)."""
    rng, (number, of) = RNG(run.seed), run.shard
    return Loop(run.method, {label(p): p for p in run.plugins}, task, rng if of == 1 else rng("shard", number, of),
                len(run.rows), place=None if of == 1 else task.part(number, of), previous=previous)


def read_start(run: Run, task: Task) -> Previous | None:
    """The finished set a run goes on from, if it does. Raises InputError: missing, damaged, or one that does not fit."""
    return None if run.start_from is None else read_previous(Path(run.start_from), run.method, task, run.rows.start)


def distill(run: Run, images: Images, folder: Path | str, *, root: Path | str = "outputs", data_root: Path | str = "data",
            every: float = 30.0, keep: Collection[int] = (), about: Mapping[str, Any] | None = None,
            progress: Progress | None = None, wait: bool = False) -> SyntheticSet:
    """Distill these training images, on their device, into ``folder``: run.toml, log.jsonl, snapshots/, and in the end the
    artifact (see artifact.py).

    A finished run is not run again, an interrupted one goes on from its last checkpoint; either way the result is that of an
    unbroken run: bit for bit on a CPU, and on a GPU where ``run.deterministic`` is set.

    root: folder for results; teachers are made and found in ``root/teachers``. data_root: of other datasets.
    every: seconds between checkpoints. keep: iterations whose images are kept in snapshots/ (0 and the last always are).
    about: further entries of the card (the protocol the set is meant for, say).
    progress: told of the preparation and of each iteration, and of what to be wary of; where it raises Stopped, a checkpoint
        is saved first. Without one, warnings are logged and nothing else.
    wait: for another process that is at the folder, instead of refusing.

    Raises InputError before the work starts: a run that does not fit the data, a folder of another run, in use or not
    writable, a damaged file in it. RunError: a loss that is not finite, a full disk; the last good checkpoint is kept.
    Stopped: asked to.
    """
    folder, progress = Path(folder), progress or Progress()
    task = check_run(run, images, root=root, data_root=data_root, progress=progress.part(0, 1, "preparing"))
    _see_foreign(folder)
    about = {**(about or {}), **_started_from(run, folder)}
    previous = None if _is_under_way(folder) else read_start(run, task)
    with Entry(folder, "run it again").held(wait), computing(task.device, run.precision, run.deterministic):
        name = run.digest(task.real, task.data_root, about.get("started_from"))
        _claim(folder, run, name, about)
        if (folder / artifact.CARD).exists():
            checkpoint.remove(folder)
            return artifact.restored(artifact.load(folder).to(task.device).tensors, task.real, run.parametrization)
        (folder / "snapshots").mkdir(exist_ok=True)
        try:
            made = prepare(run, task)
            loop = begin(run, task, previous)
        except Stopped as error:
            raise Stopped("stopped before the first iteration; the same command goes on", error.code) from None
        checkpoint.restore(folder, loop, name)
        try:
            with checkpoint.RunLog(folder, loop, name, every) as log:
                _iterate(loop, log, {*keep, 0, run.method.iterations}, progress)
            for conclusion in run.method.conclusions(checkpoint.read_log(folder)):
                progress.warn(conclusion)
            artifact.write(folder, loop.result(), {
                **about, "run": _shown(run), "digest": name, "ipc": len(run.rows),
                "data": {"name": run.data.name, "fingerprint": task.real.fingerprint},
                "computed": facts(task.device, run.precision, run.deterministic),
                **({"prepared": made} if made else {})})
        except OSError as error:
            raise RunError(f"stopped at iteration {loop.iteration}: cannot write to {folder}: {reason(error)}; the last "
                           "checkpoint is kept, make room and run the same command to go on") from error
        checkpoint.remove(folder)
        return loop.result()


def _is_under_way(folder: Path) -> bool:
    """Whether a run has a checkpoint there, or is finished."""
    return any((folder / name).exists() for name in (artifact.CARD, checkpoint.STATE))


def _started_from(run: Run, folder: Path) -> dict[str, Any]:
    """What the card says of the set a run starts from. A run under way knows it itself, should the set have gone."""
    if run.start_from is None:
        return {}
    if _is_under_way(folder) and not Path(run.start_from).exists():
        return {"started_from": read_toml(folder / "run.toml").get("started_from")}
    return {"started_from": origin(Path(run.start_from))}


def _shown(run: Run) -> dict[str, Any]:
    """The run as the card has it: without the path of the set it starts from, which ``started_from`` names by content."""
    return dump(run if run.start_from is None else run.model_copy(update={"start_from": None}))


def _see_foreign(folder: Path) -> None:
    """Refuse a folder that holds other things, before anything is written there."""
    if folder.is_dir() and not (folder / "run.toml").exists() and \
            (others := sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))):
        raise InputError(f"{folder} is not empty and no run folder (it holds {others[0]!r}); choose another --out")


def _claim(folder: Path, run: Run, name: str, about: Mapping[str, Any]) -> None:
    """Put run.toml into a new folder, or see that the folder is of this run.

    The file is a recipe too: it keeps the protocol and the published number beside the run.
    """
    path = folder / "run.toml"
    if not path.exists():
        beside = {key: about[key] for key in BESIDE if key in about}
        write_atomically(path, to_toml(run, digest=name, **beside).encode())
        return
    there, schema = read_versioned(path)
    if schema == 1 and there["digest"] != name:
        raise InputError(f"{folder} was made by an earlier version (schema 1): it can be scored, reported and exported as it is; "
                         f"to go on or distill again, give {path} as the recipe and another --out")
    beside = {key: there.pop(key, None) for key in ("digest", *BESIDE)}
    if beside["started_from"] != about.get("started_from"):
        raise InputError(f"{folder} holds a run that started from another set ({_short(beside['started_from'])}, now asked "
                         f"for: {_short(about.get('started_from'))}); choose another --out, or delete the folder")
    if beside["digest"] != name:
        raise InputError(f"{folder} holds another run ({_difference(there, dump(run))}); choose another --out, or "
                         "delete the folder")


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> str:
    """The first field in which two dumped runs differ, in words."""
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if a == b:
            continue
        where = f"{path}.{key}" if path else key
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            return _difference(a, b, where)
        return f"its {where} is {_short(a)}, now asked for: {_short(b)}"
    return "made from other data, or by another version"


def _short(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)[:60]


def _iterate(loop: Loop, log: checkpoint.RunLog, keep: Collection[int], progress: Progress) -> None:
    _snapshot(loop, log.folder, keep)
    while loop.iteration < loop.method.iterations:
        line = loop.advance()
        log.write(line)
        _snapshot(loop, log.folder, keep)
        try:
            progress.tell(loop.iteration, loop.method.iterations, f"loss {line['loss']:.4g}" if "loss" in line else "")
        except Stopped as error:
            log.save(now=True)
            raise Stopped(f"stopped at iteration {loop.iteration} of {loop.method.iterations}; "
                          "run the same command to go on", error.code) from None
        log.save()


def _snapshot(loop: Loop, folder: Path, keep: Collection[int]) -> None:
    path = folder / "snapshots" / f"{loop.iteration:06d}.safetensors"
    if loop.iteration in keep and not path.exists():
        artifact.write_tensors(path, loop.result())


def read_run(folder: Path) -> Run:
    """The run a folder was made by. Raises InputError."""
    table = read_toml(folder / "run.toml")
    return load(Run, {key: value for key, value in table.items() if key not in ("digest", *BESIDE)})
