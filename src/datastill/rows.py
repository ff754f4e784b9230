"""Tables on disk that are written row by row and read in any order: .npy files of known size, with a checksum for each row.

What a file has to look like is known without it, so its header is compared, never parsed.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datastill.errors import InputError
from datastill.files import reason


@dataclass(frozen=True)
class Form:
    """What a file of rows holds: how many, the shape of one, and the type of its values ("<f4")."""

    rows: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def header(self) -> bytes:
        """What the file begins with."""
        target = io.BytesIO()
        np.lib.format.write_array_header_1_0(target, {
            "descr": np.dtype(self.dtype).str, "fortran_order": False, "shape": (self.rows, *self.shape)})
        return target.getvalue()

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return np.dtype(self.dtype).itemsize * int(np.prod(self.shape))

    @property
    def size(self) -> int:
        """Bytes of a whole file."""
        return len(self.header) + self.rows * self.row


class RowWriter:
    """Writes rows into a file, one at a time; what is there already stays, if ``goes_on``, else the file begins anew.

    Ordinary writes instead of a memory map, so that a full disk raises an error instead of crashing the process.
    """

    def __init__(self, path: Path, form: Form, goes_on: bool) -> None:
        self.form = form
        self.file = path.open("r+b" if goes_on else "wb")
        self.file.write(form.header)

    def write(self, row: int, values: np.ndarray) -> str:
        """Write a row. Returns its checksum."""
        content = np.ascontiguousarray(values, self.form.dtype).tobytes()
        if len(content) != self.form.row:
            raise ValueError(f"a row of {len(content)} bytes; expected {self.form.row}")
        self.file.seek(len(self.form.header) + row * self.form.row)
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

    def __init__(self, path: Path, form: Form, sums: Sequence[str], again: str) -> None:
        self.path, self.form, self.sums, self.again = path, form, sums, again
        self._sound: set[int] = set()
        self._values: np.ndarray | None = None

    def __getitem__(self, row: int) -> np.ndarray:
        """A row, mapped; changes to it do not reach the file. Raises InputError if the file is missing or damaged."""
        if self._values is None:
            self._values = self._mapped()
        values: np.ndarray = self._values[row]
        if row not in self._sound:
            if hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest() != self.sums[row]:
                raise InputError(f"{self.path} is damaged: row {row} does not match its checksum; {self.again}")
            self._sound.add(row)
        return values

    def _mapped(self) -> np.ndarray:
        form = self.form
        try:
            with self.path.open("rb") as file:
                head, size = file.read(len(form.header)), os.fstat(file.fileno()).st_size
            if size != form.size:
                raise InputError(f"{self.path} is damaged: it has {size} bytes, expected {form.size}; {self.again}")
            if head != form.header:
                raise InputError(f"{self.path} is damaged: its header is not that of its values; {self.again}")
            return np.memmap(self.path, np.dtype(form.dtype), "c", len(head), (form.rows, *form.shape))
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            why = reason(error) if isinstance(error, OSError) else error
            raise InputError(f"{self.path} is damaged: {why}; {self.again}") from None


def check_written(path: Path, form: Form, sums: Mapping[int, str], again: str) -> None:
    """Check the rows of an unfinished file that have been written, by their checksums. Raises InputError."""
    try:
        with path.open("rb") as file:
            if file.read(len(form.header)) != form.header:
                raise ValueError("its header is not that of its values")
            for row, expected in sums.items():
                file.seek(len(form.header) + row * form.row)
                if hashlib.sha256(file.read(form.row)).hexdigest() != expected:
                    raise ValueError(f"row {row} does not match its checksum")
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise InputError(f"{path} is damaged: {why}; {again}") from None
