"""Pairs of views of images, by lightly's transforms, for training without labels."""

from __future__ import annotations

import multiprocessing
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightly.transforms.simclr_transform import SimCLRViewTransform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image

from datastill.data import Images
from datastill.errors import InputError, RunError
from datastill.rng import RNG

MOST = 8  # worker processes; more of them read the disk more than they help


class Views:
    """Two random views of every image of a batch. A batch is a function of its rows and its stream, whoever makes it."""

    def __init__(self, images: Images) -> None:
        self.images = images.to(torch.device("cpu"))  # worker processes cannot read what is on a GPU
        self.device = images.device
        size: Any = images.shape[1:]
        self.view = SimCLRViewTransform(
            input_size=size, cj_bright=0.4, cj_contrast=0.4, cj_sat=0.4, cj_hue=0.1, min_scale=0.2,
            gaussian_blur=0.5 if min(size) > 64 else 0.0, normalize={"mean": list(images.mean), "std": list(images.std)})

    def batches(self, parts: Sequence[Tensor], rng: RNG, workers: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Two views of the images of every part, (B, C, H, W) each. workers: processes; by default what suits the device.
        Raises InputError for a file that cannot be read, RunError if a process is ended."""
        workers = suitable(self.device) if workers is None else workers
        loader = DataLoader(_Pairs(self, parts, rng), batch_size=None, num_workers=workers, generator=torch.Generator(),
                            multiprocessing_context="fork" if workers else None,
                            pin_memory=bool(workers) and self.device.type == "cuda")
        coming = iter(loader)
        while True:
            try:
                made = next(coming, None)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise RunError(f"a process that makes views was ended from outside, for example because the memory, or the "
                               f"shared memory in /dev/shm, is full ({str(error).splitlines()[0]})") from None
            if made is None:
                return
            if isinstance(made, InputError):
                raise made
            one, two = made
            yield one.to(self.device, non_blocking=True), two.to(self.device, non_blocking=True)

    def pair(self, rows: Tensor, rng: RNG) -> tuple[Tensor, Tensor]:
        """Two views of the images of these rows."""
        pictures = self.images.originals(rows, lambda number, picture: picture)
        if pictures is None:
            pictures = [to_pil_image(one) for one in self.images.raw(rows)]
        with rng.as_global(), _others(rng.seed):
            pairs = [(self.view(one), self.view(one)) for one in pictures]
        one, two = (self._whitened(torch.stack(views)) for views in zip(*pairs, strict=True))
        return one, two

    def _whitened(self, x: Tensor) -> Tensor:
        return x if self.images.whitening is None else self.images.whitening.whiten(x)


def suitable(device: torch.device) -> int:
    """How many processes make views: none where the network needs the same cores, or where processes cannot be forked."""
    if device.type == "cpu" or sys.platform != "linux" or multiprocessing.current_process().daemon:
        return 0
    return min(MOST, torch.get_num_threads())


class _Pairs(Dataset[tuple[Tensor, Tensor] | InputError]):
    def __init__(self, views: Views, parts: Sequence[Tensor], rng: RNG) -> None:
        self.views, self.parts, self.rng = views, parts, rng

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor] | InputError:
        try:
            return self.views.pair(self.parts[number], self.rng(number))
        except InputError as error:
            return error  # raised in a worker, it would arrive with a traceback in its message


@contextmanager
def _others(seed: int) -> Iterator[None]:
    """Inside, the global generators of Python and numpy, which some views draw from, start at a seed."""
    before, there = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(there)  # noqa: NPY002
