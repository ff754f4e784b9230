"""Checkpoints and the log of a run: written so that a kill at any moment loses only seconds of work."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from datastill.errors import InputError
from datastill.files import write_atomically
from datastill.loop import Loop
from datastill.states import read_state, write_state

STATE, LOG = "state.pt", "log.jsonl"


def restore(folder: Path, loop: Loop, digest: str) -> None:
    """Restore the loop and the log from the folder's checkpoint, if there is one. Raises InputError if it is damaged."""
    path = folder / STATE
    if path.exists():
        state = read_state(path, loop.task.device, "run")
        try:
            other = state["digest"] != digest
            if not other:
                loop.restore(state["loop"])
        except Exception:  # a state in another format: torch raises a dozen kinds
            raise InputError(f"{path} is not a checkpoint of this run; delete it to start the run over") from None
        if other:
            raise InputError(f"{path} is the checkpoint of another run; delete it to start over, or choose another --out")
    _cut_log(folder / LOG, loop.iteration)


def remove(folder: Path) -> None:
    """Delete the checkpoint of a finished run."""
    (folder / STATE).unlink(missing_ok=True)


def _cut_log(path: Path, iteration: int) -> None:
    """Drop log lines written after the checkpoint, and an incomplete last line."""
    if not path.exists():
        return
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if _number(line) <= iteration]
    write_atomically(path, b"".join(lines))


def _number(line: bytes) -> float:
    try:
        number = json.loads(line)["iteration"] if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError, RecursionError):
        number = None
    return number if isinstance(number, int) else float("inf")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, without an incomplete last line."""
    path = folder / LOG
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if _number(line) < float("inf")]


class RunLog:
    """Writes log lines as they come and a checkpoint every ``every`` seconds; the log is always ahead of the checkpoint."""

    def __init__(self, folder: Path, loop: Loop, digest: str, every: float) -> None:
        self.folder, self.loop, self.digest, self.every = folder, loop, digest, every
        self.last = time.monotonic()

    def __enter__(self) -> RunLog:
        self.file = (self.folder / LOG).open("ab")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()

    def write(self, line: dict[str, Any]) -> None:
        """Append a line: the loop's numbers and the wall clock (s since 1970)."""
        rounded = {key: float(f"{v:.6g}") if isinstance(v, float) else v for key, v in line.items()}
        self.file.write(json.dumps({**rounded, "time": round(time.time(), 2)}).encode() + b"\n")

    def save(self, now: bool = False) -> None:
        """Write a checkpoint if one is due, or ``now``."""
        if not now and time.monotonic() - self.last < self.every:
            return
        self.file.flush()
        write_state(self.folder / STATE, {"digest": self.digest, "loop": self.loop.state()})
        self.last = time.monotonic()
