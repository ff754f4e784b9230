"""Independent pieces of work, one after the other or in several processes at once."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def carry_out(work: Callable[[Item], Result], items: Sequence[Item], jobs: int,
              done: Callable[[int, int], None]) -> list[Result]:
    """``work`` of every item, in order; ``done`` is told how many of how many are finished.

    With several jobs, each is a process with its share of the processor's cores: for small networks two of them on one
    core each do more than one on two. ``work`` must then be a function of a module, and what it takes and gives plain.
    The first error of one ends all; what was finished stays finished.
    """
    if jobs == 1 or len(items) < 2:
        results = []
        for number, item in enumerate(items):
            results.append(work(item))
            done(number + 1, len(items))
        return results
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(min(jobs, len(items)), multiprocessing.get_context("spawn"), _begin, (threads,)) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for number, future in enumerate(as_completed(futures)):
                future.result()
                done(number + 1, len(items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End at once where the parent was killed: a process that nobody waits for would hold its folder locked."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
