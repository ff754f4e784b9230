"""How much memory there is, and how much of it a graph holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SHARE = 0.7  # of a device's memory that one piece of work may take


def total(device: torch.device | None = None) -> int:
    """Bytes of memory of a device, of this machine unless given; unlimited where it cannot be asked."""
    if device is not None and device.type == "cuda":
        import torch
        return int(torch.cuda.mem_get_info(device)[1])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63


def held_by_graph(make: Callable[[], Any]) -> int:
    """Bytes of the tensors that autograd keeps for backward through what ``make`` computes, each counted once."""
    import torch
    held: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = make()  # lets no address be used twice
    del alive
    return sum(held.values())
