"""Where things are stored and where they run: folders for results and for data, a device, the data loaded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, lru_cache, partial
from itertools import starmap
from pathlib import Path
from typing import Any, Self

from datastill.arguments import checked
from datastill.artifact import read_card
from datastill.data import Data, Images, Splits
from datastill.data.given import Given
from datastill.description import load as describe
from datastill.errors import InputError
from datastill.executors import Executor, InProcess, Processes
from datastill.foreign import said
from datastill.late import torch
from datastill.nets import choosing
from datastill.nets.choices import SPEED, Choices
from datastill.progress import Progress
from datastill.run import Run, check_run
from datastill.task import Task
from datastill.teachers import Context, Pool

KEPT = 2  # datasets in memory


class Place:
    """A folder for results (runs, baselines, teachers, studies), one for datasets, and a device.

    device: cpu, cuda, cuda:1, mps; by default the best available. It is looked up on first use; raises InputError if there
    is no such device. portable: measure nothing about this machine, always use the usual forms of passes
    (``nets.choices``). A process that receives a place creates its own once and keeps it.
    """

    @checked
    def __init__(self, root: Path | str = "outputs", data_root: Path | str = "data",
                 device: torch.device | str | None = None, *, portable: bool = False) -> None:
        self.root, self.data_root, self.asked, self.portable = Path(root), Path(data_root), device, portable
        self._loaded: dict[Data, Splits] = {}

    def __reduce__(self) -> tuple[Callable[..., Place], tuple[Any, ...]]:
        return _again, (type(self), self.root, self.data_root, self.asked, self.portable)

    @cached_property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return find_device(None if self.asked is None else str(self.asked))

    @property
    def devices(self) -> list[torch.device]:
        """Those that several processes share: all GPUs of this machine if "cuda" or no device was given."""
        if self.device.type == "cuda" and ":" not in str(self.asked):
            return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
        return [self.device]

    def on(self, device: torch.device) -> Self:
        """The same place with another device."""
        other = type(self)(self.root, self.data_root, device, portable=self.portable)
        other._loaded = self._loaded
        return other

    def choosing(self, keep: bool = True) -> AbstractContextManager[Choices]:
        """A context in which long work measures, once, which form of its passes is fastest on this machine."""
        return choosing(self.root / SPEED, portable=self.portable, keep=keep)

    def executor(self, jobs: int = 1) -> Executor:
        """What runs independent pieces of work here, ``jobs`` at a time."""
        return InProcess(self.device) if jobs == 1 else Processes(jobs, self.devices)

    def load(self, data: Data) -> Splits:
        """The splits of a dataset, on the CPU; the last two datasets are cached as they were loaded. Raises InputError."""
        data = describe(Data, data)
        if data not in self._loaded:
            while len(self._loaded) >= KEPT:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[data] = data.load(self.data_root)
        return self._loaded[data]

    def context(self, data: Data, progress: Progress = Progress()) -> Context:
        """What pools of teachers need to know for runs on this data."""
        return Context(self.load(data).train.to(self.device), self.root, self.data_root, progress)

    @checked
    def load_of(self, folder: Path, data_path: Path | str | None = None) -> Splits:
        """The data that the set in this folder was distilled from. Raises InputError if they are not there."""
        card = read_card(folder)
        data = describe(Data, card["run"]["data"])  # its method is not needed, so it need not be importable here
        if isinstance(data.source, Given):
            raise InputError(f"{folder} was distilled from images passed in from Python ({data.name}); score it there, with "
                             "datastill.score(folder, images, train=...)")
        if data_path is not None:
            if data.source.bundled:
                raise InputError(f"--data-path: {data.name} comes with a library and has no path; leave it out")
            data = data.model_copy(update={"path": str(data_path)})
        try:
            splits = self.load(data)
        except InputError as error:
            hint = "" if data_path is not None else "; if the data were moved: --data-path, or --data-root"
            raise InputError(f"{error}{hint}") from None
        if splits.train.fingerprint != (wanted := card["data"]["fingerprint"]):
            raise InputError(f"{data.name} in {data.path or self.data_root} is not the data {folder} was distilled from "
                             f"(fingerprint {splits.train.fingerprint}, expected {wanted}); give those with --data-path")
        return splits

    def task(self, run: Run) -> Task:
        """The task of a run, on the device."""
        run = describe(Run, run)
        return run.task(self.load(run.data).train.to(self.device), root=self.root, data_root=self.data_root)

    def check(self, run: Run) -> Task:
        """Check that a run is possible here. Returns its task; raises InputError."""
        run = describe(Run, run)
        return check_run(run, self.load(run.data).train.to(self.device), root=self.root, data_root=self.data_root)

    def run_folder(self, run: Run) -> Path:
        """The default folder of a run, named after what determines its result."""
        run = describe(Run, run)
        return self.root / "runs" / run.label(self.load(run.data).train, self.data_root)

    @property
    def baselines(self) -> Path:
        """Where scores of real images are stored."""
        return self.root / "baselines"

    @checked
    def study_folder(self, name: str) -> Path:
        """Where the results and the page of a study are stored."""
        return self.root / "studies" / name

    def make_teachers(self, asked: Sequence[tuple[Pool, Data]], executor: Executor, progress: Progress = Progress()) -> None:
        """Train or load what is missing of these pools for runs on their data; the teachers of all pools at the same time,
        as pools of one teacher would leave all processes but one without work. Raises InputError, RunError."""
        if not isinstance(executor, InProcess):
            missing = {str(one.places(context)[0]): (one, data) for pool, data in asked for context in [self.context(data)]
                       for one in starmap(pool.alone, pool.members()) if one.missing(context)}
            if len(missing) > 1:
                executor.map(partial(_prepare, self), missing, progress)
        for pool, data in asked:
            with self.choosing():
                pool.prepare(self.context(data, progress))


@lru_cache(maxsize=2)
def _again(cls: type[Place], root: Path, data_root: Path, asked: torch.device | str | None, portable: bool) -> Place:
    """A place that was sent to this process; cached, so that data is loaded once for all work."""
    return cls(root, data_root, asked, portable=portable)


def _prepare(place: Place, asked: tuple[Pool, Data], device: torch.device, progress: Progress) -> None:
    pool, data = asked
    with place.choosing():
        pool.prepare(place.on(device).context(data, progress))


def images_of(splits: Splits, split: str) -> Images:
    """The images of a split that students are scored on. Raises InputError."""
    if split not in ("test", "validation"):
        raise InputError(f"--split: expected test or validation, got {split!r}")
    found = splits.test if split == "test" else splits.validation
    if found is None:
        raise InputError("split is validation, but no images are held out; distill with, for example, data.validation=0.1")
    return found


def find_device(name: str | None = None) -> torch.device:
    """The device of this name, or the best available. Raises InputError if there is no such device."""
    if name is not None and name.partition(":")[0] not in ("cpu", "cuda", "mps", "xpu"):
        raise InputError(f"--device {name}: expected cpu, cuda, cuda:1 or mps")
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        there += ["mps"] * torch.backends.mps.is_available()
        raise InputError(f"--device {name}: {said(error).partition('. ')[0]}; available here: {', '.join(there)}") from None
