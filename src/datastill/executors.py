"""Independent pieces of work: one after the other, or in several processes at once, each with its own device."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple, TypeVar

from datastill.errors import RunError, Stopped
from datastill.late import torch
from datastill.progress import SIGNALS, Progress, of_data

ASK_EVERY = 0.5  # seconds between two looks at whether a stop was requested, while other processes work

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Item, "torch.device", Progress], Result]


class Executor(ABC):
    """Runs pieces of work that do not depend on each other."""

    @abstractmethod
    def map(self, work: Work[Item, Result], items: Mapping[str, Item], progress: Progress = Progress()) -> dict[str, Result]:
        """``work(item, device, progress)`` for every item, by the item's name and in the order of the items; ``progress`` is
        told how many are finished. The work's own progress shows nothing, but raises ``Stopped`` once a stop is requested.

        ``work`` must be a module-level function whose arguments and results can be pickled, so that it can run in another
        process. The first error stops everything, what is in work too; finished work stays finished.
        """


class InProcess(Executor):
    """One after the other, in this process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def map(self, work: Work[Item, Result], items: Mapping[str, Item], progress: Progress = Progress()) -> dict[str, Result]:
        results = {}
        for name, item in items.items():
            results[name] = work(item, self.device, progress.unshown())
            progress.tell(len(results), len(items))
        return results


class Processes(Executor):
    """``jobs`` processes, to which the devices are assigned in turn.

    Each gets its share of the CPU cores: for small networks, two processes on one core each are faster than one on two.
    Signals are left to this process: it stops the others, which save their states; interrupted while it waits for that, it
    ends them.
    """

    def __init__(self, jobs: int, devices: Sequence[torch.device]) -> None:
        self.jobs, self.devices = jobs, devices

    def map(self, work: Work[Item, Result], items: Mapping[str, Item], progress: Progress = Progress()) -> dict[str, Result]:
        jobs = min(self.jobs, len(items))
        if jobs < 2:
            return InProcess(self.devices[0]).map(work, items, progress)
        context = multiprocessing.get_context("spawn")
        devices = context.SimpleQueue()
        for number in range(jobs):
            devices.put(str(self.devices[number % len(self.devices)]))
        threads, stop = max(1, (os.cpu_count() or 1) // self.jobs), context.Event()
        others = multiprocessing.active_children()
        with ProcessPoolExecutor(jobs, context, _begin, (threads, devices, stop)) as pool:
            futures = {name: pool.submit(_work, work, item) for name, item in items.items()}
            try:
                _wait(futures.values(), progress)
            except BrokenProcessPool:
                raise RunError("a process that worked on a part was ended from outside, for example because the memory is "
                               "full; finished parts are kept. Run the same command to continue, with fewer --jobs if this "
                               "happens again") from None
            except BaseException:
                stop.set()
                try:
                    pool.shutdown(cancel_futures=True)
                except BaseException:  # interrupted again
                    for child in multiprocessing.active_children():
                        if child not in others:
                            child.kill()
                    raise
                raise
            return {name: future.result() for name, future in futures.items()}


def _wait(futures: Collection[Future[Any]], progress: Progress) -> None:
    """Until all are done, or one failed, or a stop was requested."""
    left = set(futures)
    while left:
        done, left = wait(left, ASK_EVERY, FIRST_COMPLETED)
        for number, future in enumerate(done):
            future.result()
            progress.tell(len(futures) - len(left) - len(done) + number + 1, len(futures))
        progress.check()


class _Worker(NamedTuple):
    """In a worker process: its device, and its progress."""

    device: torch.device
    progress: Progress


class _UntilStopped(Progress):
    def __init__(self, stop: Event) -> None:
        self.stop = stop

    def tell(self, done: int, of: int, note: str = "") -> None:
        self.check()

    def check(self) -> None:
        if self.stop.is_set():
            raise Stopped


_own: list[_Worker] = []


def _begin(threads: int, devices: SimpleQueue[str], stop: Event) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to all of its processes
    of_data.setLevel(logging.ERROR)  # the parent has loaded the data, and said it
    torch.set_num_threads(threads)
    _own.append(_Worker(torch.device(devices.get()), _UntilStopped(stop)))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _work(work: Work[Any, Any], item: Any) -> Any:
    _own[0].progress.check()  # one more than the processes is under way to them, and cannot be called back
    return work(item, *_own[0])


def _end_with_parent() -> None:
    """Exit at once if the parent was killed: an orphaned process would keep its folder locked."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
