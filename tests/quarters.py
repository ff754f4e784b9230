"""A codec for tests: 2x2 tiles of a stored image, each an image of its own (as IDC stores four images in one)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

import datastill as ds
from datastill.errors import InputError

SIDE = 2  # tiles down and across


class Quarters(ds.Parametrization):
    """Stores SIDE x SIDE images in one; each is resized to the full size when it is decoded."""

    def check(self, task: ds.Task, ipc: int) -> None:
        if task.real.shape[1] % SIDE or task.real.shape[2] % SIDE:
            raise InputError(f"quarters: images of {task.real.shape} cannot be cut into {SIDE} x {SIDE} parts")

    def prepare(self, task: ds.Task) -> Mapping[str, int]:
        return {"tiles": SIDE * SIDE}

    def encode(self, start: ds.Batch, task: ds.Task, rng: ds.RNG) -> dict[str, Tensor]:
        """The image given, and random real ones of its class, each small."""
        label = start.y.argmax(1)
        more = [task.real.batch(task.real.of_class[c][rng(row).permutation(len(task.real.of_class[c]))[:SIDE * SIDE - 1]]).x
                for row, c in enumerate(label.tolist())]
        tiles = [_resized(torch.cat([x[None], others]), 1 / SIDE) for x, others in zip(start.x, more, strict=True)]
        return {"tiles": torch.stack([_grid(one) for one in tiles])}

    def decode(self, parameters: Mapping[str, Tensor], rows: Tensor | None = None) -> Tensor:
        stored = parameters["tiles"]
        height, width = stored.shape[2] // SIDE, stored.shape[3] // SIDE
        rows = torch.arange(len(stored) * SIDE * SIDE, device=stored.device) if rows is None else rows
        tiles = stored.unfold(2, height, height).unfold(3, width, width)  # (S, C, SIDE, SIDE, h, w)
        place = rows % (SIDE * SIDE)
        return _resized(tiles[rows // (SIDE * SIDE), :, place // SIDE, place % SIDE], SIDE)

    def labels(self, stored: Tensor) -> Tensor:
        return stored.repeat_interleave(SIDE * SIDE, 0)


def _resized(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear")


def _grid(tiles: Tensor) -> Tensor:
    """(SIDE * SIDE, C, h, w) -> (C, SIDE * h, SIDE * w)."""
    return torch.cat([torch.cat([*row], 2) for row in tiles.split(SIDE)], 1)
