"""Files that are never half written; checksums; file errors in plain words."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from datastill.errors import InputError

IMPOSSIBLE = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}  # paths that can never be written
LEFTOVER = ".datastill-"  # prefix of temporary files; a kill leaves them behind
_OWNER = re.compile(rf"{re.escape(LEFTOVER)}(\d{{1,9}})@(.*)-[^-]*")  # process and machine that write a temporary file


def write_atomically(path: Path, content: bytes | Iterable[Any]) -> None:
    """Write a file so that a reader sees the old content or the new one, also after a crash: temporary, fsync, rename.

    content: bytes, or pieces of what can be read as bytes, written one after the other.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix())
    try:
        with os.fdopen(handle, "wb") as file:
            pieces: Iterable[Any] = [content] if isinstance(content, bytes) else content
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # noqa: PTH101  mkstemp makes files private
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # that of a full disk has no name
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise


def _prefix() -> str:
    """How the name of a temporary file of this process begins."""
    return f"{LEFTOVER}{os.getpid()}@{_machine()}-"


def _machine() -> str:
    return re.sub(r"[^\w.-]", "", platform.node())[:40]


def beside(path: Path) -> Path:
    """A temporary path for what will be renamed to ``path``."""
    return path.with_name(f"{_prefix()}{path.name.replace('-', '_')}")


def sweep(folder: Path, *, held: bool = False) -> None:
    """Remove the temporary files that killed processes left in a folder. Those of living processes and of other machines
    stay. ``held``: the folder is this process's alone, so folders in it and files of unknown owners count too."""
    for path in folder.rglob(f"{LEFTOVER}*") if held else folder.glob(f"{LEFTOVER}*"):
        owner = _OWNER.fullmatch(path.name)
        gone = held if owner is None else owner[2] == _machine() and not _alive(int(owner[1]))
        if gone and path.is_file():
            with contextlib.suppress(OSError):
                path.unlink()


def _alive(process: int) -> bool:
    """Whether a process of this machine is running."""
    if os.name == "nt":  # where os.kill ends it
        return bool(import_module("psutil").pid_exists(process))
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically, keys in the order given."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """Checksum of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(content: Mapping[str, Any]) -> str:
    """Checksum of a table that can be written as JSON, hex; its own entry ``checksum`` does not count."""
    rest = json.loads(json.dumps({key: value for key, value in content.items() if key != "checksum"}))  # keys become text
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def make_folder(folder: Path) -> None:
    """Create a folder and check that files can be written there. Raises InputError with the reason and what to do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=_prefix()) as file:
            file.write(b"datastill")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {reason(error)}; choose another folder") from None


def real(path: Path) -> Path:
    """The path without links; of links in a circle, as it is."""
    return Path(os.path.realpath(path))


def reason(error: OSError) -> str:
    """The cause of a file error in plain words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    if error.errno == errno.EROFS:
        return "the file system is read-only"
    return (error.strerror or str(error)).lower()
