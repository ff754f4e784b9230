"""One teacher's files: its weights at several epochs, one row each, and the card that describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datastill.errors import InputError
from datastill.late import nn, torch
from datastill.rows import Form, RowReader, RowWriter, check_written
from datastill.store import Entry

if TYPE_CHECKING:
    from torch import Tensor

SNAPSHOTS = "snapshots.npy"
SCHEMA = 1


class SnapshotWriter:
    """Writes rows (parameters and buffers, flattened, float32) into a file of known size, one at a time."""

    def __init__(self, path: Path, rows: int, columns: int, goes_on: bool) -> None:
        self.rows = RowWriter(path, _form(rows, columns), goes_on)

    def write(self, row: int, network: nn.Module) -> str:
        """Write the current weights of the network; returns the checksum of the row."""
        return self.rows.write(row, flat(network).numpy())

    def close(self) -> None:
        """Close the file."""
        self.rows.close()


def _form(rows: int, columns: int) -> Form:
    return Form(rows, (columns,), "<f4")


def flat(network: nn.Module) -> Tensor:
    """Parameters and buffers in ``state_dict`` order as one float32 vector on the CPU."""
    values = [value.detach().float().cpu().flatten() for value in network.state_dict().values()]
    return torch.cat(values) if values else torch.zeros(0)


def layout(network: nn.Module) -> list[list[Any]]:
    """[name, shape] of the tensors in a row, in order."""
    return [[name, list(value.shape)] for name, value in network.state_dict().items()]


def write_card(folder: Path, network: nn.Module, epochs: Sequence[int], sums: Sequence[str],
               about: Mapping[str, Any]) -> None:
    """Write the card. It is written last, so a folder with a card is complete. It has one checksum per snapshot row."""
    Entry(folder, "").finish({"schema": SCHEMA, "kind": "datastill.teacher", **about, "tensors": layout(network),
                              "epochs": list(epochs), "rows": list(sums)})


class Rows:
    """The rows of a finished teacher by epoch, memory-mapped; each is verified against its checksum on first read."""

    def __init__(self, folder: Path, again: str) -> None:
        self.card, self.path = Entry(folder, again).card(), folder / SNAPSHOTS
        columns = sum(int(np.prod(shape)) for _, shape in self.card["tensors"])
        self.rows = RowReader(self.path, _form(len(self.card["epochs"]), columns), self.card["rows"], again)

    def read(self, epoch: int) -> Tensor:
        """The row of an epoch, one vector. Raises InputError if the epoch was not stored or the file, named, is damaged."""
        if epoch not in self.card["epochs"]:
            raise InputError(f"{self.path} has no epoch {epoch}; stored epochs: {', '.join(map(str, self.card['epochs']))}")
        return torch.from_numpy(self.rows[self.card["epochs"].index(epoch)])


def again(folder: Path) -> str:
    """How to train a teacher again, which is never done automatically."""
    return f"to train it again, delete {folder} or use datastill teach --retrain"


def check_rows(folder: Path, network: nn.Module, kept: Sequence[int], sums: Mapping[int, str]) -> None:
    """Check the rows of an unfinished teacher, of which the epochs ``kept`` will be stored, against the checksums of the
    epochs written so far. Raises InputError."""
    form = _form(len(kept), len(flat(network)))
    check_written(folder / SNAPSHOTS, form, {kept.index(epoch): one for epoch, one in sums.items()}, again(folder))


def read_into(network: nn.Module, folder: Path, epoch: int, again: str) -> dict[str, Any]:
    """Load the weights of an epoch into the network, directly from the memory-mapped file. Returns the card.

    Raises InputError if the epoch was not stored, the network differs, or the file, named, is damaged.
    """
    rows = Rows(folder, again)
    values = rows.read(epoch)
    there, wanted = rows.card["tensors"], layout(network)
    if there != wanted:
        mine, theirs = next((a, b) for a, b in zip([*wanted, None], [*there, None], strict=False) if a != b)
        raise InputError(f"{rows.path} is from a different network: it has {theirs} where {mine} is expected; {again}")
    assign(network, values)
    return rows.card


def assign(network: nn.Module, values: Tensor) -> None:
    """Set the network's parameters and buffers to a row, without a copy if dtype and device match."""
    state, start = {}, 0
    for name, like in network.state_dict().items():
        state[name] = values[start:start + like.numel()].view(like.shape).to(like.device, like.dtype)
        start += like.numel()
    network.load_state_dict(state, assign=True)
