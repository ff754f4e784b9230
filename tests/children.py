"""Processes for tests that start or kill several: forked from one that has imported what is slow, seconds before.

What they carry out are functions of this module; each tells its parent how far it is through a pipe.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

SLOW = ["torch", "torchvision", "scipy.stats", "sklearn.datasets", "safetensors.torch", "hypothesis", "datastill.cli", "datastill.workspace", "datastill.distilled",
        "datastill.synthetic", "datastill.report"]


@cache
def forking() -> ForkServerContext:
    """How they are started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(SLOW)
    return context


@pytest.fixture
def quick_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own processes are started so too; ``test_executors`` has them as they are."""
    context = forking()
    monkeypatch.setattr("datastill.executors.multiprocessing.get_context", lambda how: context)


class Child:
    """A process that carries out a function of this module."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.said, theirs = forking().Pipe(duplex=False)
        self.process = forking().Process(target=_without_fsync, args=(function, theirs, *arguments))
        self.process.start()
        theirs.close()

    def hear(self) -> Any:
        """What it says next; None once it has ended."""
        try:
            return self.said.recv()
        except EOFError:
            return None

    def kill(self) -> int | None:
        """kill -9; its exit code."""
        self.process.kill()
        return self.wait()

    def wait(self) -> int | None:
        """Its exit code, once it has ended."""
        self.process.join()
        return self.process.exitcode


def _without_fsync(function: Any, *arguments: Any) -> None:
    """As in the tests themselves: only a power cut can tell the difference."""
    os.fsync = lambda descriptor: None
    function(*arguments)


def distill_slowly(parent: Connection, folder: Path) -> None:
    """A run of 40 iterations, each with its checkpoint."""
    import torch

    import tiny
    from datastill.progress import Progress

    class Slow(Progress):
        def tell(self, *told: Any) -> None:
            time.sleep(0.02)

    torch.set_num_threads(2)
    run = tiny.run(method_options={"iterations": 40})
    parent.send("go")
    tiny.distill(run, folder, every=0.05, progress=Slow())


def teach(parent: Connection, root: Path) -> None:
    """Two teachers of twelve epochs, each epoch with its checkpoint; says how many are done."""
    import datastill.teachers._lesson as lesson
    from datastill.data import Data
    from datastill.nets.convnet import ConvNet
    from datastill.progress import Progress
    from datastill.teachers import Context
    from datastill.teachers.supervised import Supervised

    class Said(Progress):
        def tell(self, done: int, of: int, note: str = "") -> None:
            parent.send(done)

    lesson.EVERY = 0.0
    pool = Supervised(networks=(ConvNet(width=4, depth=2),), count=2, epochs=12, batch_size=64)
    pool.prepare(Context(Data(source="digits").load(".").train, root, root, Said()))  # type: ignore[arg-type]


def command(parent: Connection, folder: Path, *arguments: str) -> None:
    """The command line in a folder; what it says is kept there in ``said``."""
    from datastill import cli
    os.chdir(folder)
    sys.argv = ["datastill", *arguments]
    with (folder / "said").open("w") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        cli.main()
