"""Carrying out a run: prepare, iterate, checkpoint, write."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datastill import artifact, checkpoint
from datastill.arguments import checked
from datastill.compute import computing, facts
from datastill.core import Labeler, Method, Protocol
from datastill.data import Data, Images
from datastill.data.given import Given
from datastill.description import load
from datastill.digest import dump, foreign_code, to_sealed_toml
from datastill.errors import InputError, RunError, Stopped
from datastill.files import real, reason, write_atomically
from datastill.foreign import calling, is_foreign, package_of
from datastill.late import torch
from datastill.loop import Loop
from datastill.nets import choosing
from datastill.nets.choices import RECORD, SPEED
from datastill.outputs import check_apart
from datastill.parametrization import PARAMETRIZATION
from datastill.previous import Previous, origin, read_previous
from datastill.progress import Progress
from datastill.registry import kind
from datastill.rng import RNG
from datastill.run import BESIDE, Run, asked, check_run, label
from datastill.store import Entry
from datastill.tables import PLAIN, counted, difference, is_plain, read_toml, read_versioned, short, shown
from datastill.task import Task

if TYPE_CHECKING:
    from datastill.distilled import Distilled


def labeler(run: Run, task: Task) -> Labeler | None:
    """What gives random real images labels of the kind the run's set has; None if the set has hard labels, or if teachers
    it needs are missing (none are trained just to score a set). Raises InputError for a damaged one."""
    pools = run.method.pools(run.network)
    if any(pool.missing(task.context) for pool in pools):
        return None
    if (found := run.method.labeler(task)) is not None:
        for pool in pools:
            list(task.teachers(pool))  # loads them
        if is_foreign(cls := type(run.method)):
            return found._replace(label=calling(f"{kind(cls)}.labeler: its label", package_of(cls))(found.label))
    return found


def prepare(run: Run, task: Task) -> dict[str, Any]:
    """Prepare what method and plug-ins need. Returns what the card records of it, by name. Raises InputError, RunError."""
    made = {PARAMETRIZATION: run.parametrization.prepare(task),
            **{name: part.prepare(task) for name, part in asked(run).items()}}
    for name, found in made.items():
        if not is_plain(found):
            raise InputError(f"{name}: prepare returned what a card cannot hold, {shown(found)}; expected {PLAIN}")
    return {name: facts for name, facts in made.items() if facts}


def stream(run: Run) -> RNG:
    """The stream of all draws of a run. Shards have their own, unless together they are the unbroken run."""
    rng, (number, of) = RNG(run.seed), run.shard
    return rng if of == 1 or run.method.splits else rng("shard", number, of)


def begin(run: Run, task: Task, previous: Previous | None = None) -> Loop:
    """The loop of a run before its first iteration; ``previous`` is the set it continues from (``read_start``)."""
    number, of = run.shard
    loop = Loop(run.method, {label(p): p for p in run.plugins}, task, stream(run), len(run.rows),
                place=None if of == 1 or run.method.splits else task.part(number, of), previous=previous)
    if (found := loop.synthetic.decode().dtype) != torch.float32:
        raise InputError(f"{kind(run.method)}.start returned images of type {found}; expected torch.float32")
    return loop


def read_start(run: Run, task: Task) -> Previous | None:
    """The finished set a run continues from, if any. Raises InputError: missing, damaged, or one that does not fit."""
    return None if run.start_from is None else read_previous(Path(run.start_from), run.method, task, run.rows.start)


@checked
def distill(run: Run | Method | str, images: Any, out: Path | str | None = None, *, root: Path | str = "outputs",
            data_root: Path | str = "data", every: float = 30.0, keep: Collection[int] = (),
            about: Mapping[str, Any] | None = None, progress: Progress | None = None, wait: bool = False,
            portable: bool = False, **settings: Any) -> Distilled:
    """Distill these training images, on their device, into the folder ``out``: run.toml, log.jsonl, snapshots/, and
    finally the artifact (see artifact.py). Returns the distilled set.

    run: a ``Run``; or a method (``ds.DM(iterations=1000)``, "dm"), with the other ``settings`` of the run: ipc, network,
        plugins, seed, ... images: ``Images``, or any map-style dataset of images and labels (``Images.from_dataset``).
    out: by default ``root/runs/NAME-DIGEST``.

    A finished run is not run again; an interrupted one continues from its last checkpoint. Either way the result is that of
    an uninterrupted run: bit for bit on a CPU, and on a GPU if ``run.deterministic`` is set.

    root: folder for results; teachers are stored in ``root/teachers``. data_root: folder of other datasets.
    every: seconds between checkpoints. keep: iterations whose images are saved in snapshots/ (0 and the last always are).
    about: further entries of the card (such as the protocol the set is meant for).
    progress: receives the progress of the preparation and of each iteration, and warnings; if it raises Stopped, a
        checkpoint is saved first. Without one, warnings are logged and nothing else.
    wait: wait for another process that is using the folder, instead of raising.
    portable: measure nothing about this machine. Otherwise a long run measures once which form of its passes is fastest
        (``nets.choices``), records it in speed.json, and keeps to it when it is continued; only rounding depends on it.

    Raises InputError before the work starts: a run that does not fit the data, a folder of another run, in use or not
    writable, a damaged file in it. RunError: a loss that is not finite, a full disk; the last good checkpoint is kept.
    Stopped: it was asked to stop.
    """
    progress, images = progress or Progress(), Images.from_dataset(images)
    artifact.check_about(about or {})
    if about and "protocol" in about:
        load(Protocol, about["protocol"], "about.protocol")  # type: ignore[type-abstract]
    run = _described(run, images, settings)
    if beyond := [number for number in keep if number > run.method.iterations]:
        raise InputError(f"keep: {beyond[0]} is more than the {counted(run.method.iterations, 'iteration')} of the run")
    folder = Path(root) / "runs" / run.label(images, data_root) if out is None else Path(out)
    task = check_run(run, images, root=root, data_root=data_root, progress=progress.part(0, 1, "preparing"))
    see_apart(folder, run, Path(data_root))
    check_apart(folder)
    _see_foreign(folder)
    if (idle := [label(one) for one in run.plugins if one.weight > 0]) and not run.method.iterations:
        progress.warn(f"method {kind(run.method)} takes no iterations, so plug-ins have no effect: {', '.join(idle)}")
    code = foreign_code(run)
    about = {**(about or {}), **_started_from(run, folder), **({"code": code} if code else {})}
    previous = None if _is_under_way(folder) else read_start(run, task)
    with Entry(folder, "run it again").held(wait), computing(task.device, run.precision, run.deterministic), \
            ExitStack() as stack:
        name = run.digest(task.real, task.data_root, about.get("started_from"))
        _claim(folder, run, name, about, progress)
        if (folder / artifact.CARD).exists():
            checkpoint.remove(folder)
            return artifact.load(folder).to(task.device)
        (folder / "snapshots").mkdir(exist_ok=True)
        choices = stack.enter_context(choosing(Path(root) / SPEED, folder / RECORD, run.method.iterations, portable))
        try:
            made = prepare(run, task)
            loop = begin(run, task, previous)
        except Stopped as error:
            raise Stopped("stopped before the first iteration; run the same command to continue", error.code) from None
        checkpoint.restore(folder, loop, name)
        try:
            with checkpoint.RunLog(folder, loop, name, every) as log:
                _iterate(loop, log, {*keep, 0, run.method.iterations}, progress)
            _conclude(run.method, folder, progress)
            artifact.write(folder, loop.result(), {
                **about, "run": _shown(run), "digest": name, "ipc": len(run.rows),
                "data": {"name": run.data.name, "fingerprint": task.real.fingerprint,
                         "images": {"training": task.real.counts}, **task.real.loading},
                "computed": {**facts(task.device, run.precision, run.deterministic), **choices.facts},
                **({"prepared": made} if made else {})}, run=name, iteration=loop.iteration)
        except Stopped:
            raise
        except RunError as error:
            raise RunError(f"{error}; {_kept(folder)}") from error
        except OSError as error:
            raise RunError(f"stopped at iteration {loop.iteration}: cannot write to {folder}: {reason(error)}; make room "
                           f"and run the same command again; {_kept(folder)}") from error
        checkpoint.remove(folder)
        done = artifact.load(folder)
        if copies := done.card.get("copies"):
            repeat = "repeats" if copies == 1 else "repeat"
            progress.warn(f"{copies} of the {len(done)} images of the set {repeat} another one")
        return done.to(task.device)


def _described(run: Run | Method | str, images: Images, settings: Mapping[str, Any]) -> Run:
    """The run, on the data its images come from, so that the card describes the images that are used."""
    data = images.origin if isinstance(images.origin, Data) else Data(source=Given(label=str(images.origin or "")))
    if twice := {"method", "data"} & set(settings):
        raise InputError(f"{min(twice)} is given twice: the method is the first argument, the data are those of the images")
    if not isinstance(run, Run):
        return load(Run, {"data": data, **settings, "method": run})
    if settings:
        raise InputError(f"{next(iter(settings))} is given along with a Run; set it in the Run, or give a method instead")
    return run if run.data == images.origin else run.model_copy(update={"data": data})


def _kept(folder: Path) -> str:
    """What is left of a run that was stopped by an error."""
    return "the last good checkpoint is kept" if (folder / checkpoint.STATE).exists() else "no checkpoint was written yet"


def _is_under_way(folder: Path) -> bool:
    """Whether a run has a checkpoint there, or is finished."""
    return any((folder / name).exists() for name in (artifact.CARD, checkpoint.STATE))


def _started_from(run: Run, folder: Path) -> dict[str, Any]:
    """What the card records about the set a run starts from. A started run has its own record, in case the set is gone."""
    if run.start_from is None:
        return {}
    if _is_under_way(folder) and not Path(run.start_from).exists():
        return {"started_from": read_toml(folder / "run.toml").get("started_from")}
    return {"started_from": origin(Path(run.start_from))}


def _shown(run: Run) -> dict[str, Any]:
    """The run as in the card: without the path of the set it starts from, which ``started_from`` identifies by content."""
    return dump(run if run.start_from is None else run.model_copy(update={"start_from": None}))


def see_apart(folder: Path, run: Run, data_root: Path) -> None:
    """Reject a folder inside that of the run's images, where it would become a class of the next run."""
    whole, path = real(folder), run.data.path
    for place in (data_root / path, Path.cwd() / path) if path and kind(run.data.source) == "folder" else ():
        if place.is_dir() and real(place) in (whole, *whole.parents):
            raise InputError(f"{folder} is inside the images of the run ({place}), and would become one of their classes; "
                             "choose another --out")


def _see_foreign(folder: Path) -> None:
    """Reject a folder that holds other things, before anything is written there."""
    if folder.is_dir() and not (folder / "run.toml").exists() and \
            (others := sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))):
        raise InputError(f"{folder} is not empty and not a run folder (it holds {others[0]!r}); choose another --out")


def _claim(folder: Path, run: Run, name: str, about: Mapping[str, Any], progress: Progress) -> None:
    """Write run.toml to a new folder, or check that the folder belongs to this run; warn if a class of the user's changed.

    The file is a recipe too: it stores the protocol and the published number beside the run.
    """
    path = folder / "run.toml"
    if not path.exists():
        beside = {key: about[key] for key in BESIDE if key in about}
        write_atomically(path, to_sealed_toml(run, digest=name, **beside).encode())
        return
    there, schema = read_versioned(path)
    if schema == 1 and there["digest"] != name:
        raise InputError(f"{folder} was created by an earlier version (schema 1): it can be scored, reported and exported "
                         f"as it is; to continue it or distill again, give {path} as the recipe and another --out")
    beside = {key: there.pop(key, None) for key in ("digest", *BESIDE)}
    if beside["started_from"] != about.get("started_from"):
        raise InputError(f"{folder} holds a run that started from another set ({short(beside['started_from'])}, now "
                         f"given: {short(about.get('started_from'))}); choose another --out, or delete the folder")
    if beside["digest"] != name:
        how = difference(there, dump(run)) or "distilled from other data, with another file of weights or a generator, " \
            "or by another version"
        raise InputError(f"{folder} holds another run ({how}); choose another --out, or delete the folder")
    if changed := [one for one, text in (beside["code"] or {}).items() if about.get("code", {}).get(one, text) != text]:
        progress.warn(f"{changed[0]} was changed since the run in {folder} began, which is continued or returned as it is; "
                      "choose another --out, or raise the version of the class")


def _iterate(loop: Loop, log: checkpoint.RunLog, keep: Collection[int], progress: Progress) -> None:
    _snapshot(loop, log, keep)
    while loop.iteration < loop.method.iterations:
        try:
            line = loop.advance()
            loop.check()
        except InputError as error:
            raise InputError(f"stopped at iteration {loop.iteration}: {error}") from error
        log.write(line)
        _snapshot(loop, log, keep)
        try:
            progress.tell(loop.iteration, loop.method.iterations, f"loss {line['loss']:.4g}" if "loss" in line else "")
        except Stopped as error:
            log.save(now=True)
            raise Stopped(f"stopped at iteration {loop.iteration} of {loop.method.iterations}; "
                          "run the same command to continue", error.code) from None
        log.save()


def _conclude(method: Method, folder: Path, progress: Progress) -> None:
    """Show what the method says of its whole run; if nothing, whether the set is the one it started from. Raises InputError
    if the method never proposed an update."""
    log = checkpoint.read_log(folder)
    try:
        texts = [str(text) for text in method.conclusions(log)]
    except InputError as error:
        texts = [str(error)]  # the set is finished, whatever a class of the user's says about it
    start, end = (_snapshot_path(folder, iteration) for iteration in (0, method.iterations))
    iterations = counted(method.iterations, "iteration")
    if method.iterations and start.exists() and _are_equal(start, end):
        if not any("loss" in line for line in log):
            raise InputError(f"{kind(method)}.iterate yielded no step in {iterations}; expected some")
        names = [name.removeprefix(artifact.PARAMETER) for name in artifact.read_tensors(start)
                 if name.startswith(artifact.PARAMETER)]
        texts = texts or [f"nothing was learned: after {iterations} the set is the one it started from; raise the learning "
                          f"rates ({method.optim.rates(names or [artifact.PIXELS])})"]
    for text in texts:
        progress.warn(text)


def _are_equal(one: Path, other: Path) -> bool:
    first, second = artifact.read_tensors(one), artifact.read_tensors(other)
    return all(torch.equal(value, second[name]) for name, value in first.items())


def _snapshot_path(folder: Path, iteration: int) -> Path:
    return folder / "snapshots" / f"{iteration:06d}.safetensors"


def _snapshot(loop: Loop, log: checkpoint.RunLog, keep: Collection[int]) -> None:
    path = _snapshot_path(log.folder, loop.iteration)
    if loop.iteration in keep and not path.exists():
        artifact.write_tensors(path, loop.result(), run=log.digest, iteration=loop.iteration)
