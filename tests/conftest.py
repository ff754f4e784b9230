"""Shared by all tests: one thread, the tests folder importable (tiny, reference.golden), no waiting for the disk."""

import sys
from pathlib import Path

import pytest
import torch

from datastill import files

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)  # tiny networks gain nothing from a second, and suffer on a busy machine


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a power cut can tell the difference, and it takes most of the time of a tiny run."""
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: None)
