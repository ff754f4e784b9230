"""What commands share: how they are registered, interrupted and print, and the options they have in common."""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from datastill.errors import Stopped
from datastill.progress import SIGNALS


def command(group: typer.Typer, **options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command. Ctrl-C in it ends with one line and exit code 130, before typer handles it in its own way."""
    def register(work: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(work)
        def guarded(*arguments: Any, **keywords: Any) -> None:
            try:
                work(*arguments, **keywords)
            except KeyboardInterrupt:
                raise Stopped("stopped immediately; finished work is kept", 130) from None
        group.command(**options)(guarded)
        return work
    return register


def complete_recipe(incomplete: str) -> list[str]:
    from datastill.recipes import recipe_names
    return [name for name in recipe_names() if name.startswith(incomplete)]


RecipeName = Annotated[str, typer.Argument(
    metavar="RECIPE", help="A recipe (`datastill list recipes`), or a TOML file such as a run.toml.",
    autocompletion=complete_recipe)]
Changes = Annotated[list[str] | None, typer.Argument(
    metavar="[KEY=VALUE]...", help="Changes to the recipe, with dots between keys: `ipc=1 network.width=32 "
    "method.iterations=500 plugins.total_variation.weight=0.1`.")]
DataRoot = Annotated[Path, typer.Option(
    envvar="DATASTILL_DATA", help="Folder of the datasets; missing ones are downloaded there.")]
Root = Annotated[Path, typer.Option(
    envvar="DATASTILL_ROOT", help="Folder for results: runs/, teachers/, studies/ and what they share.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: the best available.")]
Portable = Annotated[bool, typer.Option(
    "--portable", help="Measure nothing about this machine: every pass in its usual form.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")]
DataPath = Annotated[Path | None, typer.Option(
    help="Where the data of the set are now, if they were moved: their data.path. The fingerprint must be the same.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that datastill did not write.")]
DATA_ROOT, ROOT = Path("data"), Path("outputs")


class Interrupt:
    """While entered, the first Ctrl-C, SIGTERM or SIGHUP requests a stop at the next opportunity, through the progress bar
    of the work; a second one stops immediately."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.bar.stop is not None:
            raise KeyboardInterrupt
        self.bar.stop = 128 + number
        print("stopping at the next opportunity (press again to stop immediately)", file=sys.stderr)


def say(text: str) -> None:
    print(text)
