"""States: what is written comes back; a damaged or foreign file is named, and nothing pickled is run."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch

from datastill.states import read_state, write_state
from kit import input_error

CPU = torch.device("cpu")


def test_comes_back(tmp_path: Path) -> None:
    write_state(tmp_path / "s", {"epoch": 3, "x": torch.arange(4.0), "sums": {1: "a"}})
    back = read_state(tmp_path / "s", CPU, "run")
    assert (back["epoch"], back["sums"]) == (3, {1: "a"})
    assert torch.equal(back["x"], torch.arange(4.0))


@pytest.mark.parametrize("at", [0, 40, -1])
def test_a_changed_byte_is_found(at: int, tmp_path: Path) -> None:
    write_state(tmp_path / "s", {"x": torch.arange(4.0)})
    content = bytearray((tmp_path / "s").read_bytes())
    content[at] ^= 1
    (tmp_path / "s").write_bytes(content)
    with input_error("damaged", str(tmp_path / "s"), "start the teacher over"):
        read_state(tmp_path / "s", CPU, "teacher")


class Evil:
    """Would run a command when unpickled."""

    def __reduce__(self) -> object:
        return os.mkdir, ("evil",)


def test_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps(Evil())
    (tmp_path / "s").write_bytes(hashlib.sha256(content).digest() + content)
    with input_error("not a checkpoint"):
        read_state(tmp_path / "s", CPU, "run")
    assert not (tmp_path / "evil").exists()
