"""Named random streams: a stream is a function of its path, so nothing is stored and no draw disturbs another."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datastill.errors import InputError
from datastill.late import torch

if TYPE_CHECKING:
    from torch import Tensor
    from torch import device as Device


@dataclass(frozen=True)
class RNG:
    """A stream named by a path: ``RNG(seed)("iteration", 12)("real", 3)``. Equal paths draw equal numbers.

    All draws are made on the CPU, so that a run draws the same on every device; what is computed from them is bit for bit
    the same on a CPU (see ``compute``). Only what networks draw themselves inside ``as_global`` comes from the GPU.
    """

    path: tuple[int | str, ...]

    def __init__(self, *path: int | str) -> None:
        try:
            object.__setattr__(self, "path", tuple(p if isinstance(p, str) else operator.index(p) for p in path))
        except TypeError:
            raise InputError(f"a stream is named by whole numbers and text, got {', '.join(map(repr, path))}") from None

    def __call__(self, *names: int | str) -> RNG:
        return RNG(*self.path, *names)

    @property
    def seed(self) -> int:
        """63-bit hash of the path."""
        text = json.dumps(self.path).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1

    def torch(self) -> torch.Generator:
        """A fresh CPU generator at the start of this stream."""
        return torch.Generator().manual_seed(self.seed)

    def numpy(self) -> np.random.Generator:
        """A fresh numpy generator at the start of this stream."""
        return np.random.default_rng(self.seed)

    def uniform(self, *shape: int) -> Tensor:
        """Float32 numbers in [0, 1), the first of this stream."""
        return torch.rand(shape, generator=self.torch())

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 numbers, the first of this stream."""
        return torch.randn(shape, generator=self.torch())

    def permutation(self, n: int) -> Tensor:
        """A random order of 0 .. n-1, int64."""
        return torch.randperm(n, generator=self.torch())

    @contextmanager
    def as_global(self, device: Device | None = None) -> Iterator[None]:
        """Inside, torch's global CPU generator, and that of the device if it is a GPU, are this stream; they are restored
        afterwards.

        For code that takes no generator, such as the initialization of third-party networks, or dropout.
        """
        gpu = device if device is not None and device.type == "cuda" else None
        before = torch.random.get_rng_state()
        there = None if gpu is None else torch.cuda.get_rng_state(gpu)
        torch.default_generator.manual_seed(self.seed)
        if gpu is not None:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(self.seed)
        try:
            yield
        finally:
            torch.random.set_rng_state(before)
            if gpu is not None and there is not None:
                torch.cuda.set_rng_state(there, gpu)
