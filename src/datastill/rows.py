"""Tables on disk that are written row by row and read in any order: .npy files of known size, with a checksum for each row.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datastill.errors import InputError
from datastill.files import reason


class RowWriter:
    """Writes rows of a shape and type into a .npy file of so many, one at a time; what is there already stays.

    Ordinary writes instead of a memory map, so that a full disk raises an error instead of crashing the process.
    """

    def __init__(self, path: Path, rows: int, shape: Sequence[int], dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.file = path.open("r+b" if path.exists() else "wb")
        np.lib.format.write_array_header_1_0(self.file, {
            "descr": self.dtype.str, "fortran_order": False, "shape": (rows, *shape)})
        self.start, self.size = self.file.tell(), self.dtype.itemsize * int(np.prod(shape))

    def write(self, row: int, values: np.ndarray) -> str:
        """Write a row. Returns its checksum."""
        content = np.ascontiguousarray(values, self.dtype).tobytes()
        if len(content) != self.size:
            raise ValueError(f"a row of {len(content)} bytes; expected {self.size}")
        self.file.seek(self.start + row * self.size)
        self.file.write(content)
        self.file.flush()
        return hashlib.sha256(content).hexdigest()

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class RowReader:
    """The rows of a finished file, memory-mapped; each is compared with its checksum when it is first read. ``again`` ends
    the error messages: how to get it again."""

    def __init__(self, path: Path, sums: Sequence[str], again: str) -> None:
        self.path, self.sums, self.again = path, sums, again
        self._sound: set[int] = set()
        self._values: Any = None

    def __getitem__(self, row: int) -> np.ndarray:
        """A row, mapped; changes to it do not reach the file. Raises InputError if the file is missing or damaged."""
        try:
            if self._values is None:
                self._values = np.load(self.path, mmap_mode="c")
            values: np.ndarray = self._values[row]
        except OSError as error:
            raise InputError(f"{self.path} is damaged: {reason(error)}; {self.again}") from None
        except (ValueError, IndexError, EOFError) as error:
            raise InputError(f"{self.path} is damaged: {error}; {self.again}") from None
        if row not in self._sound:
            if hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest() != self.sums[row]:
                raise InputError(f"{self.path} is damaged: row {row} does not match its checksum; {self.again}")
            self._sound.add(row)
        return values


def check_written(path: Path, shape: Sequence[int], dtype: str, sums: Sequence[str], again: str) -> None:
    """Check the first rows of an unfinished file against their checksums. Raises InputError."""
    size = np.dtype(dtype).itemsize * int(np.prod(shape))
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            for row, expected in enumerate(sums):
                if hashlib.sha256(file.read(size)).hexdigest() != expected:
                    raise ValueError(f"row {row} does not match its checksum")
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise InputError(f"{path} is damaged: {why}; {again}") from None
