"""What is computed once: found, made by one process, verified, refused or made again when damaged."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastill.files import LEFTOVER
from datastill.store import CARD, Entry, locked, once, read_record, write_record
from kit import input_error, quick

HOLD = """
import sys
from pathlib import Path
from datastill.store import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

FOLDER = Path(tempfile.mkdtemp())


def place(folder: Path) -> Entry:
    return Entry(folder, "do it again")


def test_a_place_is_finished_by_its_card(tmp_path: Path) -> None:
    one = place(tmp_path / "a" / "b")
    assert not one.finished
    with input_error("not finished", "do it again"):
        one.card()
    with one.held():
        (one.folder / "data").write_bytes(b"abc")
        one.finish({"kind": "test"}, ["data"])
    assert one.finished
    assert one.read()["kind"] == "test"


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    for where in (tmp_path / f"{LEFTOVER}x", tmp_path / "in" / f"{LEFTOVER}y"):
        where.parent.mkdir(exist_ok=True)
        where.write_bytes(b"half")
    (tmp_path / "mine").write_bytes(b"whole")
    (tmp_path / f"{LEFTOVER}folder").mkdir()  # of an export, for example: its own business
    with place(tmp_path).held():
        assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock") == ["mine"]


@pytest.mark.parametrize("name", ["data", CARD])
def test_every_damaged_byte_is_found(tmp_path: Path, name: str) -> None:
    one = place(tmp_path)
    (tmp_path / "data").write_bytes(bytes(range(40)))
    one.finish({"kind": "test", "text": "x"}, ["data"])
    whole = (tmp_path / name).read_bytes()
    for number in range(len(whole)):
        if chr(whole[number]).isspace() and name == CARD:
            continue  # between values: it says the same
        (tmp_path / name).write_bytes(whole[:number] + bytes([whole[number] ^ 1]) + whole[number + 1:])
        with input_error(str(tmp_path / name), "damaged", "do it again"):
            one.read()
    (tmp_path / "data").unlink()
    (tmp_path / CARD).write_bytes(whole) if name == CARD else None
    with input_error(str(tmp_path / "data"), "missing"):
        one.read()


def test_a_file_is_made_once(tmp_path: Path) -> None:
    calls = []

    def make(aside: Path) -> None:
        calls.append(aside)
        aside.write_bytes(b"abc")

    with ThreadPoolExecutor(4) as threads:
        paths = list(threads.map(lambda _: once(tmp_path / "deep" / "file", make), range(8)))
    assert {path.read_bytes() for path in paths} == {b"abc"}
    assert len(calls) == 1


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    path = once(tmp_path / "file", lambda aside: aside.write_bytes(b"abc") and None)
    path.write_bytes(b"abd!")
    assert once(path, lambda aside: aside.write_bytes(b"new") and None).read_bytes() == b"new"
    path.with_name("file.json").write_text("{}")
    path.touch()
    assert once(path, lambda aside: aside.write_bytes(b"newer") and None).read_bytes() in (b"new", b"newer")


def test_a_file_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    def make(aside: Path) -> None:
        aside.write_bytes(b"half")
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        once(tmp_path / "file", make)
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3), max_leaves=6)


@quick
@given(st.dictionaries(st.text(max_size=4).filter(lambda key: key != "checksum"), values, max_size=4))
def test_a_record_comes_back(content: dict[str, Any]) -> None:
    path = FOLDER / "record.json"
    write_record(path, content)
    back = read_record(path, "")
    assert back is not None
    del back["checksum"]
    assert back == json.loads(json.dumps(content))


def test_no_record_is_none_and_an_edited_one_refused(tmp_path: Path) -> None:
    assert read_record(tmp_path / "none.json", "") is None
    write_record(tmp_path / "one.json", {"accuracy": 0.5})
    (tmp_path / "one.json").write_text((tmp_path / "one.json").read_text().replace("0.5", "0.9"))
    with input_error(str(tmp_path / "one.json"), "edited", "score again"):
        read_record(tmp_path / "one.json", "score again")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds ``tmp_path`` until its input ends."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.usefixtures("holder")
def test_a_folder_held_by_another_process_is_refused(tmp_path: Path) -> None:
    with input_error(str(tmp_path), "in use by another process"), locked(tmp_path):
        pass


def test_a_folder_is_free_after_its_holder_was_killed(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with locked(tmp_path):
        pass


def test_a_folder_is_free_after_its_holder_ended(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.communicate()
    with locked(tmp_path):
        pass


def test_a_folder_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_a_folder_is_held_within_one_process_too(tmp_path: Path) -> None:
    with locked(tmp_path):
        with input_error(str(tmp_path)), locked(tmp_path):
            pass
        with input_error(str(tmp_path)), locked(tmp_path):  # the refused one has not set it free
            pass
