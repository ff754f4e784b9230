"""What is computed once and stored: found by the path its description determines, written by one process, verified on read.

Three forms: a folder that is complete once its card is there (``Entry``), a single file with its checksum beside it
(``once``), and a record, JSON with its checksum inside (``write_record``). Nothing is ever half there: files are written
under a temporary name and renamed, a card comes last, and what does not match its checksum is rejected or computed again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from datastill.errors import InputError
from datastill.files import beside, checksum, make_folder, sha256, sweep, sync, write_json

CARD = "card.json"
LOCK = ".lock"


class Entry:
    """The folder of one result. ``again`` ends the error messages: how to get it again."""

    def __init__(self, folder: Path, again: str) -> None:
        self.folder, self.again = folder, again

    @property
    def finished(self) -> bool:
        """Whether the card is there; it is written last."""
        return (self.folder / CARD).exists()

    @contextlib.contextmanager
    def held(self, wait: bool = False) -> Iterator[None]:
        """Hold the folder for this process alone; it is created if needed and cleared of what killed processes left half
        written.

        Raises InputError: it cannot be written to, or another process holds it and ``wait`` is not set.
        """
        make_folder(self.folder)
        with locked(self.folder, wait):
            sweep(self.folder, held=True)
            yield

    def finish(self, card: Mapping[str, Any], files: Iterable[str] = ()) -> None:
        """Write the card, with the checksums of these files: from now on the folder is complete."""
        sums = {name: sha256(self.folder / name) for name in files}
        write_record(self.folder / CARD, {**card, **({"files": sums} if sums else {})})

    def card(self) -> dict[str, Any]:
        """The card. Raises InputError if there is none, or it was altered."""
        found = read_record(self.folder / CARD, self.again)
        if found is None:
            raise InputError(f"{self.folder} is not finished; {self.again}")
        return found

    def read(self) -> dict[str, Any]:
        """The card, after every file it names was checked against its checksum. Raises InputError naming a damaged one."""
        card = self.card()
        self.verify(card)
        return card

    def verify(self, card: Mapping[str, Any]) -> None:
        """Check every file that a card names against its checksum. Raises InputError naming the one that is damaged."""
        for name, expected in card.get("files", {}).items():
            path = self.folder / name
            if not path.is_file():
                raise InputError(f"{path} is missing; {self.again}")
            if sha256(path) != expected:
                raise InputError(f"{path} is damaged: its checksum does not match the card; {self.again}")


def once(path: Path, make: Callable[[Path], None]) -> Path:
    """The file at ``path``, created if it is missing or damaged, by one process while others wait for it.

    make: writes it, to the path it is given. Raises OSError if it cannot be stored.
    """
    if not _whole(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(str(path.with_name(f".{path.name}.lock"))):
            if not _whole(path):
                sweep(path.parent)
                aside = beside(path)
                try:
                    make(aside)
                    sync(aside)
                    there = sha256(aside)
                    aside.replace(path)
                finally:
                    aside.unlink(missing_ok=True)
                write_record(_beside(path), {"sha256": there})
    return path


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


_sound: set[tuple[str, int, int]] = set()  # files verified by this process: path, time of change, size


def _whole(path: Path) -> bool:
    try:
        facts = path.stat()
        known = (str(path.absolute()), facts.st_mtime_ns, facts.st_size)
        if known not in _sound:
            card = _sealed(_beside(path))
            if card is None or card.get("sha256") != sha256(path):
                return False
            _sound.add(known)
        return True
    except OSError:
        return False


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a table as JSON with a checksum of itself, atomically."""
    write_json(path, {**content, "checksum": checksum(content)})


def read_record(path: Path, again: str) -> dict[str, Any] | None:
    """What was written; None if there is no such file. Raises InputError if it was altered, ending with ``again``."""
    if not path.exists():
        return None
    if (found := _sealed(path)) is None:
        raise InputError(f"{path} is damaged or was edited: its checksum does not match; {again}")
    return found


def _sealed(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if content["checksum"] == checksum(content) else None
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        return None


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process; the lock ends with the process, however it ends.

    Raises InputError if another process holds it and ``wait`` is not set.
    """
    lock = filelock.FileLock(str(folder / LOCK), timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise InputError(f"{folder} is in use by another process; wait for it, or write to another folder") from None
    try:
        yield
    finally:
        lock.release()
