"""Make the teachers of a pool ahead of time, several at once where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import torch

from datastill.data import Data, Images
from datastill.jobs import carry_out
from datastill.teachers.pool import Context, Pool


def make(pool: Pool, data: Data, root: Path, data_root: Path, device: torch.device, jobs: int,
         watch: Callable[[int, int], None]) -> None:
    """Make what is missing of a pool for a run on this data. Raises InputError, RunError."""
    images = _images(data, data_root).to(device)
    context = Context(images, root, data_root, watch)
    if jobs == 1 or pool.missing(context) < 2:
        pool.prepare(context)
        return
    alone = [pool.alone(*member) for member in pool.members()]
    missing = [one for one in alone if one.missing(context)]
    carry_out(partial(_make, data, root, data_root, device), missing, jobs, watch)
    pool.prepare(context)


def _make(data: Data, root: Path, data_root: Path, device: torch.device, pool: Pool) -> None:
    pool.prepare(Context(_images(data, data_root).to(device), root, data_root))


@lru_cache(maxsize=2)
def _images(data: Data, root: Path) -> Images:
    return data.load(root).train
