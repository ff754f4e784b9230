"""Rows on disk: written in any order, read in any order, damage found row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datastill.rows import Form, RowReader, RowWriter, check_written
from kit import input_error

FORM = Form(4, (3, 2), "<i2")
VALUES = np.arange(24, dtype=np.int16).reshape(4, 3, 2)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[str]]:
    path, sums = tmp_path / "rows.npy", [""] * 4
    writer = RowWriter(path, FORM, goes_on=False)
    for row in (2, 0, 3, 1):
        sums[row] = writer.write(row, VALUES[row])
    writer.sync()
    writer.close()
    return path, sums


def test_it_is_an_npy_file(written: tuple[Path, list[str]]) -> None:
    assert np.array_equal(np.load(written[0]), VALUES)
    rows = RowReader(written[0], FORM, written[1], "again")
    assert all(np.array_equal(rows[row], VALUES[row]) for row in (3, 0, 3, 1, 2))


def test_what_is_there_stays(written: tuple[Path, list[str]]) -> None:
    path, sums = written
    writer = RowWriter(path, FORM, goes_on=True)
    writer.write(1, VALUES[1] + 1)
    writer.close()
    assert np.array_equal(np.load(path)[2:], VALUES[2:])
    with pytest.raises(ValueError, match="10 bytes"):
        RowWriter(path, FORM, goes_on=True).write(0, np.zeros(5, np.int16))
    check_written(path, FORM, {0: sums[0]}, "again")
    with input_error("rows.npy is damaged", "row 1 does not match", "again"):
        check_written(path, FORM, {0: sums[0], 1: sums[1]}, "again")


def test_damage_is_found_where_it_is(written: tuple[Path, list[str]]) -> None:
    path, sums = written
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    rows = RowReader(path, FORM, sums, "delete it")
    assert np.array_equal(rows[2], VALUES[2])
    with input_error("rows.npy is damaged: row 3 does not match its checksum; delete it"):
        rows[3]
    path.write_bytes(bytes(content[:-20]))
    with input_error("rows.npy is damaged", "delete it"):
        RowReader(path, FORM, sums, "delete it")[0]
    path.unlink()
    with input_error("rows.npy is damaged", "delete it"):
        RowReader(path, FORM, sums, "delete it")[0]
    with input_error("rows.npy is damaged", "delete it"):
        check_written(path, FORM, dict(enumerate(sums)), "delete it")


def test_every_flipped_bit_is_found(written: tuple[Path, list[str]]) -> None:
    path, sums = written
    content = path.read_bytes()
    assert len(content) == FORM.size
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(flipped))
        rows = RowReader(path, FORM, sums, "delete it")
        with input_error("rows.npy is damaged", "delete it"):
            [rows[row] for row in range(4)]
        with input_error("rows.npy is damaged", "again"):
            check_written(path, FORM, dict(enumerate(sums)), "again")


@pytest.mark.parametrize("more", [b"x", b"", None])
def test_a_file_of_another_size_is_damaged(written: tuple[Path, list[str]], more: bytes | None) -> None:
    path, sums = written
    content = path.read_bytes()
    path.write_bytes(content[:-1] if more is None else content + more if more else b"")
    with input_error("rows.npy is damaged", f"expected {FORM.size}"):
        RowReader(path, FORM, sums, "delete it")[0]


def test_a_file_that_begins_anew_has_nothing_of_the_one_before(written: tuple[Path, list[str]]) -> None:
    path, _ = written
    path.write_bytes(path.read_bytes() + b"more" * 100)
    writer = RowWriter(path, FORM, goes_on=False)
    for row in range(4):
        writer.write(row, VALUES[row])
    writer.close()
    assert path.stat().st_size == FORM.size
    assert np.array_equal(np.load(path), VALUES)
