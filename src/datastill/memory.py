"""How much memory there is, and how much of it an autograd graph holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SHARE = 0.7  # of a device's memory that one piece of work may use


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
