"""Rows on disk: written in any order, read in any order, damage found row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datastill.rows import RowReader, RowWriter, check_written
from kit import input_error

VALUES = np.arange(24, dtype=np.int16).reshape(4, 3, 2)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[str]]:
    path, sums = tmp_path / "rows.npy", [""] * 4
    writer = RowWriter(path, 4, (3, 2), "<i2")
    for row in (2, 0, 3, 1):
        sums[row] = writer.write(row, VALUES[row])
    writer.sync()
    writer.close()
    return path, sums


def test_it_is_an_npy_file(written: tuple[Path, list[str]]) -> None:
    assert np.array_equal(np.load(written[0]), VALUES)
    rows = RowReader(*written, "again")
    assert all(np.array_equal(rows[row], VALUES[row]) for row in (3, 0, 3, 1, 2))


def test_what_is_there_stays(written: tuple[Path, list[str]]) -> None:
    path, sums = written
    writer = RowWriter(path, 4, (3, 2), "<i2")
    writer.write(1, VALUES[1] + 1)
    writer.close()
    assert np.array_equal(np.load(path)[2:], VALUES[2:])
    with pytest.raises(ValueError, match="10 bytes"):
        RowWriter(path, 4, (3, 2), "<i2").write(0, np.zeros(5, np.int16))
    check_written(path, (3, 2), "<i2", sums[:1], "again")
    with input_error("rows.npy is damaged", "row 1 does not match", "again"):
        check_written(path, (3, 2), "<i2", sums[:2], "again")


def test_damage_is_found_where_it_is(written: tuple[Path, list[str]]) -> None:
    path, sums = written
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    rows = RowReader(path, sums, "delete it")
    assert np.array_equal(rows[2], VALUES[2])
    with input_error("rows.npy is damaged: row 3 does not match its checksum; delete it"):
        rows[3]
    path.write_bytes(bytes(content[:-20]))
    with input_error("rows.npy is damaged", "delete it"):
        RowReader(path, sums, "delete it")[0]
    path.unlink()
    with input_error("rows.npy is damaged", "delete it"):
        RowReader(path, sums, "delete it")[0]
    with input_error("rows.npy is damaged", "delete it"):
        check_written(path, (3, 2), "<i2", sums, "delete it")
