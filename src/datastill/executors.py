"""Independent pieces of work: one after the other, or in several processes at once, each with its own device."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar

from datastill.errors import RunError
from datastill.late import torch
from datastill.progress import Progress, of_data

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(ABC):
    """Runs pieces of work that do not depend on each other."""

    @abstractmethod
    def map(self, work: Callable[[Item, torch.device], Result], items: Mapping[str, Item],
            progress: Progress = Progress()) -> dict[str, Result]:
        """``work(item, device)`` for every item, by the item's name and in the order of the items; ``progress`` is told how
        many are finished.

        ``work`` must be a module-level function whose arguments and results can be pickled, so that it can run in another
        process. The first error stops everything; finished work stays finished.
        """


class InProcess(Executor):
    """One after the other, in this process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def map(self, work: Callable[[Item, torch.device], Result], items: Mapping[str, Item],
            progress: Progress = Progress()) -> dict[str, Result]:
        results = {}
        for name, item in items.items():
            results[name] = work(item, self.device)
            progress.tell(len(results), len(items))
        return results


class Processes(Executor):
    """``jobs`` processes, to which the devices are assigned in turn.

    Each gets its share of the CPU cores: for small networks, two processes on one core each are faster than one on two.
    """

    def __init__(self, jobs: int, devices: Sequence[torch.device]) -> None:
        self.jobs, self.devices = jobs, devices

    def map(self, work: Callable[[Item, torch.device], Result], items: Mapping[str, Item],
            progress: Progress = Progress()) -> dict[str, Result]:
        jobs = min(self.jobs, len(items))
        if jobs < 2:
            return InProcess(self.devices[0]).map(work, items, progress)
        context = multiprocessing.get_context("spawn")
        devices = context.SimpleQueue()
        for number in range(jobs):
            devices.put(str(self.devices[number % len(self.devices)]))
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        with ProcessPoolExecutor(jobs, context, _begin, (threads, devices)) as pool:
            futures = {name: pool.submit(_work, work, item) for name, item in items.items()}
            try:
                for number, future in enumerate(as_completed(futures.values())):
                    future.result()
                    progress.tell(number + 1, len(items))
            except BrokenProcessPool:
                raise RunError("a process that worked on a part was ended from outside, for example because the memory is "
                               "full; finished parts are kept. Run the same command to continue, with fewer --jobs if this "
                               "happens again") from None
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            return {name: future.result() for name, future in futures.items()}


_own: list[torch.device] = []  # in a worker process: its device


def _begin(threads: int, devices: SimpleQueue[str]) -> None:
    of_data.setLevel(logging.ERROR)  # the parent has loaded the data, and said it
    torch.set_num_threads(threads)
    _own.append(torch.device(devices.get()))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _work(work: Callable[[Any, torch.device], Any], item: Any) -> Any:
    return work(item, _own[0])


def _end_with_parent() -> None:
    """Exit at once if the parent was killed: an orphaned process would keep its folder locked."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
