"""Shared by all tests: one thread, the tests folder importable (tiny, reference.golden), no waiting for the disk, the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start; before torch is imported
os.environ["DATASTILL_BFLOAT16"] = "1"  # also on a processor that is slow at it

import pytest
import torch

from datastill import cli, files

sys.path.insert(0, str(Path(__file__).parent))
from children import quick_processes  # noqa: F401  a fixture

torch.set_num_threads(1)  # tiny networks gain nothing from a second, and suffer on a busy machine


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a power cut can tell the difference, and it takes most of the time of a tiny run."""
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: None)


@pytest.fixture
def run_cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["datastill", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
