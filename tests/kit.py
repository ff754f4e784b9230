"""What several mirror tests need: the check of an error's one line, quick hypothesis settings, tiny image sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from datastill.data import Images
from datastill.errors import InputError, Stopped
from datastill.progress import Progress
from datastill.rng import RNG

Call = Callable[..., tuple[int, str, str]]  # what the fixture run_cli gives
quick = settings(deadline=None, max_examples=40, derandomize=True, database=None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For modules that import it: on a busy machine threads wait for each other, a hundred times longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Told(Progress):
    """Keeps what it is told, and stops after ``stop_at`` steps, or when it is asked for the ``stop_at_check``-th time."""

    def __init__(self, stop_at: int | None = None, stop_at_check: int | None = None) -> None:
        self.checked, self.stop_at_check = 0, stop_at_check
        self.told: list[tuple[int, int, str]] = []
        self.warned: list[str] = []
        self.stop_at = stop_at

    def tell(self, done: int, of: int, note: str = "") -> None:
        self.told.append((done, of, note))
        if self.stop_at is not None and done >= self.stop_at:
            raise Stopped(code=143)

    def check(self) -> None:
        self.checked += 1
        if self.stop_at_check is not None and self.checked >= self.stop_at_check:
            raise Stopped(code=143)

    def warn(self, text: str) -> None:
        self.warned.append(text)

    @property
    def steps(self) -> list[tuple[int, int]]:
        """(done, of how many), without notes."""
        return [(done, of) for done, of, _ in self.told]


@contextmanager
def input_error(*parts: str) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """Expects an InputError of one line that holds every one of ``parts``."""
    with pytest.raises(InputError) as caught:
        yield caught
    text = str(caught.value)
    assert "\n" not in text
    assert [part for part in parts if part not in text] == [], text


def toy_images(classes: int = 3, per_class: int = 4, shape: tuple[int, int, int] = (1, 4, 4), seed: int = 0) -> Images:
    """Random pixels, targets 0, 1, ..., 0, 1, ..., a mean and std per channel."""
    rng = RNG("toy", seed)
    pixels = (rng.uniform(classes * per_class, *shape) * 256).byte()
    targets = torch.arange(classes * per_class) % classes
    names = tuple("abcdefghijklmnopqrst"[:classes])
    return Images(pixels, targets, names, (0.4, 0.5, 0.6)[:shape[0]], (0.2, 0.25, 0.3)[:shape[0]])


def changed_pixel(images: Images) -> Tensor:
    """The pixels with the very last one a level higher or lower."""
    pixels = images.pixels.clone()
    pixels[-1, -1, -1, -1] ^= 1
    return pixels


class Counting(TorchDispatchMode):
    """While entered, counts operations by name: ``_local_scalar_dense`` is a value that is read, for which a GPU is waited
    for. A ``transfer`` is a copy from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        self.seen[name] += 1
        self.seen["transfer"] += name == "_to_copy" and kwargs.get("device", args[0].device) != args[0].device
        return func(*args, **kwargs)
