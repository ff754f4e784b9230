"""How much memory there is, how much of it an autograd graph holds, and what becomes of memory that is freed."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from datastill.environment import environment

if TYPE_CHECKING:
    import torch

SHARE = 0.7  # of a device's memory that one piece of work may use
ALLOCATOR = "DATASTILL_ALLOCATOR"  # environment variable; "system" leaves the allocator of the C library as it is
# Options of mallopt(3), in bytes: free memory at the end of the heap is returned from 2 GiB on, the heap grows by 64 MiB,
# and only blocks from 1 GiB on are mapped one by one.
OPTIONS = {-1: 2**31 - 1, -2: 2**26, -3: 2**30}


def total(device: torch.device | None = None) -> int:
    """Total memory of a device in bytes, by default of this machine; unlimited if it cannot be determined."""
    if device is not None and device.type == "cuda":
        import torch
        return int(torch.cuda.mem_get_info(device)[1])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        psutil = _psutil()
        return 2**63 if psutil is None else int(psutil.virtual_memory().total)


def peak(device: torch.device) -> int:
    """Peak memory in bytes: on a GPU since its counter was last reset, else of this process since it started."""
    if device.type == "cuda":
        import torch
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        psutil = _psutil()
        return 0 if psutil is None else int(psutil.Process().memory_info().peak_wset)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _psutil() -> Any:
    """The library to use on Windows, if it is installed."""
    with suppress(ModuleNotFoundError):
        return import_module("psutil")
    return None


def held_by_graph(make: Callable[[], Any]) -> int:
    """Bytes of the tensors that autograd keeps for backward through what ``make`` computes, each counted once."""
    import torch
    held: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = make()  # so that no address is reused
    del alive
    return sum(held.values())


@cache
def keep_freed() -> bool:
    """Have the C library keep memory that is freed, for the rest of this process, and use it again. Returns whether it does.

    By default glibc returns blocks of a few MiB to the system when they are freed, and gets the next ones page by page,
    filled with zeros. Passes through networks allocate such blocks all the time: they took 1.4 to 3 times as long
    (``benchmarks/bench.py``). Other C libraries, and settings of the user's (``MALLOC_...``), are left alone.
    """
    theirs = [name for name in os.environ if name.startswith("MALLOC_")]
    if environment(ALLOCATOR, "system") == "system" or theirs or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, value) for option, value in OPTIONS.items())
