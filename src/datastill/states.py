"""Checkpoints: tensors and plain values in one file with a checksum in front, so that damage is detected."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from datastill.errors import InputError
from datastill.files import write_atomically
from datastill.late import torch

SUM = 32  # bytes of SHA-256 in front


def write_state(path: Path, state: Any) -> None:
    """Write tensors and plain values, atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_atomically(path, hashlib.sha256(content).digest() + content)


def read_state(path: Path, device: torch.device, of: str) -> Any:
    """Read what was written. Raises InputError: damaged, or not a checkpoint; ``of`` says what it is a checkpoint of."""
    content = path.read_bytes()
    if hashlib.sha256(content[SUM:]).digest() != content[:SUM]:
        raise InputError(f"{path} is damaged: its checksum does not match; delete it to start the {of} over")
    try:
        return torch.load(io.BytesIO(content[SUM:]), map_location=device, weights_only=True)
    except Exception:  # a file that is not ours may contain anything: torch raises a dozen kinds
        raise InputError(f"{path} is not a checkpoint of this {of}; delete it to start the {of} over") from None
