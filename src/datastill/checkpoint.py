"""Checkpoints and the log of a run: written so that a kill at any moment loses only seconds of work."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from datastill.errors import InputError
from datastill.files import write_atomically
from datastill.loop import Loop
from datastill.states import read_state, write_state
from datastill.store import CARD

STATE, LOG = "state.pt", "log.jsonl"
SUM = "crc32"  # key of a log line's checksum: flipped bytes are found, iteration by iteration


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
    """Drop log lines written after the checkpoint, and an incomplete last line. Raises InputError if another is damaged."""
    if not path.exists():
        return
    kept = _lines(path, path.read_bytes(), iteration)
    write_atomically(path, b"".join(map(_sealed, kept)))


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log. Raises InputError for a damaged one; an incomplete last line is left out of a log of a run
    that has not finished."""
    path = folder / LOG
    if not path.exists():
        return []
    content = path.read_bytes()
    if content and not content.endswith(b"\n") and (folder / CARD).exists():
        raise _damaged(path, content.count(b"\n") + 1)
    return _lines(path, content)


def _lines(path: Path, content: bytes, iteration: float = float("inf")) -> list[dict[str, Any]]:
    """The complete lines up to an iteration, each checked. Raises InputError."""
    lines: list[dict[str, Any]] = []
    sealed = SUM.encode() in content  # earlier versions wrote no checksums
    for raw in content[:content.rfind(b"\n") + 1].splitlines():
        if len(lines) >= iteration:
            return lines
        try:
            line = json.loads(raw)
            given = line.pop(SUM, None)
            sound = given == _sum(line) or (given is None and not sealed)
        except (ValueError, AttributeError, TypeError, RecursionError):
            sound = False
        if not sound or line.get("iteration") != len(lines) + 1:
            raise _damaged(path, len(lines) + 1)
        lines.append(line)
    if len(lines) < iteration < float("inf"):
        raise _damaged(path, len(lines) + 1)
    return lines


def _damaged(path: Path, number: int) -> InputError:
    return InputError(f"{path} is damaged at line {number}; restore it from a copy, or delete it to go on without it")


def _sealed(line: Mapping[str, Any]) -> bytes:
    """A log line with its checksum."""
    return json.dumps({**line, SUM: _sum(line)}).encode() + b"\n"


def _sum(line: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(line, sort_keys=True).encode())


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
        self.file.write(_sealed({**rounded, "time": round(time.time(), 2)}))

    def save(self, now: bool = False) -> None:
        """Write a checkpoint if one is due, or ``now``."""
        if not now and time.monotonic() - self.last < self.every:
            return
        self.file.flush()
        os.fsync(self.file.fileno())  # a checkpoint must never be ahead of the log, not even after a power failure
        write_state(self.folder / STATE, {"digest": self.digest, "loop": self.loop.state()})
        self.last = time.monotonic()
