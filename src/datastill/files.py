"""Files that are never half written, folders that one process holds, checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from datastill.errors import InputError

LEFTOVER = ".datastill-"  # how temporary files begin; a kill leaves them behind


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, also after a crash: temporary, fsync, rename."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=LEFTOVER)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # noqa: PTH101  mkstemp makes files private
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically, keys in the order given."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def sha256(path: Path) -> str:
    """Checksum of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder and see that files can be written there. Raises InputError with the reason and what to do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ".writable", b"datastill")
        (folder / ".writable").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {reason(error)}; choose another place (--out, --root)") from None


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left half written in a folder this process holds, and in the folders inside."""
    for path in folder.rglob(f"{LEFTOVER}*"):
        path.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """The cause of a file error in plain words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    if error.errno == errno.EROFS:
        return "the file system is read-only"
    return (error.strerror or str(error)).lower()


def seal(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card with a checksum of itself."""
    return {**card, "checksum": _checksum(card)}


def read_sealed(path: Path) -> dict[str, Any] | None:
    """A card that was sealed; None where the file is no such card, or was altered."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        return card if card["checksum"] == _checksum(card) else None
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        return None


def _checksum(card: Mapping[str, Any]) -> str:
    content = {key: value for key, value in card.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process; the lock ends with the process, however it ends.

    Raises InputError when another process holds it, unless it is to ``wait`` for that.
    """
    lock = filelock.FileLock(str(folder / ".lock"), timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise InputError(f"{folder} is in use by another process; wait for it, or choose another --out") from None
    try:
        yield
    finally:
        lock.release()
