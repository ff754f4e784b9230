"""Files that are never half written; checksums; file errors in plain words."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datastill.errors import InputError

IMPOSSIBLE = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}  # paths that can never be written
LEFTOVER = ".datastill-"  # prefix of temporary files; a kill leaves them behind


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
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # that of a full disk has no name
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
        with tempfile.NamedTemporaryFile(dir=folder, prefix=LEFTOVER) as file:
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
