"""Files that are never half written, folders that one process holds."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datastill import files
from datastill.files import make_folder, reason, sha256, write_atomically, write_json
from kit import input_error


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The given function of os fails as on a full disk."""
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, request.param, fail)


failing_anywhere = pytest.mark.parametrize("full_disk", ["fsync", "replace", "chmod"], indirect=True)


@pytest.mark.parametrize("content", [b"", b"new", b"\x00\xff\r\n" * 1000])
@pytest.mark.parametrize("old", [None, b"something longer than the new content"])
def test_a_file_is_written_or_replaced(tmp_path: Path, content: bytes, old: bytes | None) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    write_atomically(path, content)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@failing_anywhere
@pytest.mark.usefixtures("full_disk")
def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@failing_anywhere
@pytest.mark.usefixtures("full_disk")
def test_a_failed_first_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_a_reader_sees_one_content_or_the_other(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [b"a" * 5000, b"b" * 7000]
    write_atomically(path, contents[0])
    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(lambda: [write_atomically(path, contents[i % 2]) for i in range(60)])
        seen = {path.read_bytes()}
        while not writing.done():
            seen.add(path.read_bytes())
    assert seen <= set(contents)


def test_a_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "file", b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_keeps_order_and_umlauts(tmp_path: Path) -> None:
    value = {"z": [1, 2.5, None], "a": {"ü": "日本"}}
    write_json(tmp_path / "file.json", value)
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert list(json.loads(text).items()) == list(value.items())
    assert "日本" in text
    assert text.endswith("\n")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_make_folder_keeps_every_file_that_is_there(tmp_path: Path) -> None:
    for name in (".writable", ".datastill-notes", ".lock"):
        (tmp_path / name).write_text("mine")
    make_folder(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        (".writable", ".datastill-notes", ".lock"), "mine")


def test_make_folder_makes_parents_and_leaves_no_file(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("place", ["file", "file/inside"])
def test_make_folder_explains_a_file_in_its_place(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with input_error(f"cannot write to {tmp_path / place}", "; choose another folder"):
        make_folder(tmp_path / place)
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("full_disk", ["fsync"], indirect=True)
@pytest.mark.usefixtures("full_disk")
def test_make_folder_explains_a_full_disk(tmp_path: Path) -> None:
    with input_error(str(tmp_path / "runs"), "the disk is full"):
        make_folder(tmp_path / "runs")


def test_a_folder_can_be_made_by_several_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def slowly(source: str, target: Path) -> None:
        replace(source, target)
        time.sleep(0.002)

    monkeypatch.setattr(os, "replace", slowly)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(make_folder, [tmp_path / "runs"] * 40))
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(("error", "text"), [
    (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
    (OSError(errno.EROFS, "Read-only file system"), "the file system is read-only"),
    (PermissionError(errno.EACCES, "Permission denied"), "permission denied"),
    (OSError("odd"), "odd"),
])
def test_reason_is_in_plain_words(error: OSError, text: str) -> None:
    assert reason(error) == text


def test_a_full_disk_is_reported_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is checked
        write_atomically(tmp_path / "report.html", b"text")
    assert (caught.value.filename, reason(caught.value)) == (str(tmp_path / "report.html"), "the disk is full")
    assert not list(tmp_path.iterdir())


def dead_process() -> int:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return int(done.stdout)


def test_what_a_killed_process_left_is_removed_by_the_next_one_that_writes_there(tmp_path: Path) -> None:
    names = {f".datastill-{dead_process()}@{files._machine()}-x": False, f".datastill-{os.getpid()}@{files._machine()}-x": True,
             f".datastill-{os.getpid()}@elsewhere-x": True, ".datastill-notes": True}
    for name in names:
        (tmp_path / name).write_text("half")
    make_folder(tmp_path)
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_a_temporary_file_names_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(os, "replace", lambda source, target: seen.append(Path(source).name))
    write_atomically(tmp_path / "file", b"x")
    (left,) = seen
    assert left.startswith(f".datastill-{os.getpid()}@")
    (tmp_path / left).rename(tmp_path / left.replace(str(os.getpid()), str(dead_process())))
    files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
