"""Where things lie and where they run: folders for results and for data, a device, the data loaded once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from datastill.core import Task
from datastill.data import Data, Images, Splits
from datastill.errors import InputError
from datastill.executors import Executor, InProcess, Processes
from datastill.late import torch
from datastill.progress import Progress
from datastill.run import Run, check_run
from datastill.teachers import Context, Pool

KEPT = 2  # datasets


class Place:
    """A folder for results (runs, baselines, teachers, studies), one for datasets, and a device.

    device: cpu, cuda, cuda:1, mps; the best there is unless given. It is looked for when it is first asked for; raises
    InputError where there is no such device. Another process that is sent a place has one of its own there, which it keeps.
    """

    def __init__(self, root: Path | str = "outputs", data_root: Path | str = "data",
                 device: torch.device | str | None = None) -> None:
        self.root, self.data_root, self.asked = Path(root), Path(data_root), device
        self._loaded: dict[Data, Splits] = {}

    def __reduce__(self) -> tuple[Callable[..., Place], tuple[Any, ...]]:
        return _again, (self.root, self.data_root, self.asked)

    @cached_property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return find_device(None if self.asked is None else str(self.asked))

    @property
    def devices(self) -> list[torch.device]:
        """Those that several processes share: all of this machine where "cuda" was asked for, or nothing."""
        if self.device.type == "cuda" and ":" not in str(self.asked):
            return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
        return [self.device]

    def on(self, device: torch.device) -> Place:
        """The same place with another device."""
        other = Place(self.root, self.data_root, device)
        other._loaded = self._loaded
        return other

    def executor(self, jobs: int = 1) -> Executor:
        """What carries out independent pieces of work here, so many at once."""
        return InProcess(self.device) if jobs == 1 else Processes(jobs, self.devices)

    def load(self, data: Data) -> Splits:
        """The splits of a dataset, on the CPU; the last two are kept as they were when loaded. Raises InputError."""
        if data not in self._loaded:
            while len(self._loaded) >= KEPT:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[data] = data.load(self.data_root)
        return self._loaded[data]

    def context(self, data: Data, progress: Progress = Progress()) -> Context:
        """What pools of teachers have to know for runs on this data."""
        return Context(self.load(data).train.to(self.device), self.root, self.data_root, progress)

    def task(self, run: Run) -> Task:
        """The task of a run, on the device."""
        return run.task(self.load(run.data).train.to(self.device), root=self.root, data_root=self.data_root)

    def check(self, run: Run) -> Task:
        """Check that a run can be carried out here. Returns its task; raises InputError."""
        return check_run(run, self.load(run.data).train.to(self.device), root=self.root, data_root=self.data_root)

    def run_folder(self, run: Run) -> Path:
        """Where a run lies unless another folder is given, by what decides its result."""
        return self.root / "runs" / run.label(self.load(run.data).train, self.data_root)

    @property
    def baselines(self) -> Path:
        """Where scores of real images lie."""
        return self.root / "baselines"

    def study_folder(self, name: str) -> Path:
        """Where results and page of a study lie."""
        return self.root / "studies" / name

    def make_teachers(self, pool: Pool, data: Data, executor: Executor, progress: Progress = Progress()) -> None:
        """Make what is missing of a pool for runs on this data. Raises InputError, RunError."""
        context = self.context(data, progress)
        if not isinstance(executor, InProcess) and pool.missing(context) > 1:
            alone = {f"{group}-{number}": pool.alone(group, number) for group in range(len(pool.networks))
                     for number in range(pool.size)}
            missing = {name: one for name, one in alone.items() if one.missing(context)}
            executor.map(partial(_prepare, self, data), missing, progress)
        pool.prepare(context)


@lru_cache(maxsize=2)
def _again(root: Path, data_root: Path, asked: torch.device | str | None) -> Place:
    """A place that was sent here; one, so that data is loaded once for all work that comes."""
    return Place(root, data_root, asked)


def _prepare(place: Place, data: Data, pool: Pool, device: torch.device) -> None:
    pool.prepare(place.on(device).context(data))


def images_of(splits: Splits, split: str) -> Images:
    """The images of a split that students are scored on. Raises InputError."""
    if split not in ("test", "validation"):
        raise InputError(f"--split: expected test or validation, got {split!r}")
    found = splits.test if split == "test" else splits.validation
    if found is None:
        raise InputError("split is validation, but no images are held out; distill with data.validation=0.1, say")
    return found


def find_device(name: str | None = None) -> torch.device:
    """The device of this name, or the best there is. Raises InputError where there is no such device."""
    if name is not None and name.partition(":")[0] not in ("cpu", "cuda", "mps", "xpu"):
        raise InputError(f"--device {name}: expected cpu, cuda, cuda:1 or mps")
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from None
