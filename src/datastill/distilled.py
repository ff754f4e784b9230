"""A distilled set as a torch dataset."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datastill.compute import send
from datastill.data import Batch
from datastill.data.domain import Domain
from datastill.data.whitening import Whitening
from datastill.rng import RNG


class Distilled(Dataset[tuple[Any, Any]]):
    """A distilled set read from its folder: a torch dataset with its card.

    An item is (image (C, H, W) float, normalized; label): the class number for hard labels, probabilities (K,) for soft
    ones. ``transform`` is applied to that image when an item is accessed. ``x`` (N, C, H, W), ``y`` (N, K), ``view``
    (N, H, W, C) uint8, ``lr``: the learned learning rate or None, ``whitening``: how images must be whitened before a
    network trained on this set sees them, or None; ``folder``: where it was read from, or None; ``mapped``: whether its
    tensors are mapped from a large file, so that only what is used is in memory.
    """

    def __init__(self, tensors: Mapping[str, Tensor], card: Mapping[str, Any], whitening: Whitening | None = None,
                 transform: Callable[[Tensor], Any] | None = None, folder: Path | None = None, mapped: bool = False,
                 device: torch.device | None = None) -> None:
        self.tensors = dict(tensors)
        self.card = dict(card)
        self.x, self.y, self.view = tensors["images"], tensors["labels"], tensors["view"]
        self.lr = float(tensors["lr"]) if "lr" in tensors else None
        self.classes = tuple(card["classes"])
        self.mean, self.std = tuple(card["mean"]), tuple(card["std"])
        self.whitening, self.transform, self.folder = whitening, transform, folder
        self.mapped, self.device = mapped, device or self.x.device

    @property
    def domain(self) -> Domain:
        """The domain of a network trained on it."""
        channels, height, width = self.x.shape[1:]
        return Domain((channels, height, width), self.mean, self.std, self.classes, self.whitening)

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        run = self.card.get("run", {}).get("method", {}).get("kind", "")
        return f"<datastill.Distilled: {len(self)} images {tuple(self.x.shape[1:])} of {len(self.classes)} classes, " \
               f"{self.card['labels']} labels{run and f', by {run}'}>"

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        try:
            index = operator.index(index)
        except TypeError:
            raise TypeError(f"expected the number of one image, got {index!r}; several are in x, y and batch(rows), or use "
                            "torch.utils.data.Subset") from None
        x, y = self.x[index], self.y[index]
        return x if self.transform is None else self.transform(x), int(y.argmax()) if self.card["labels"] == "hard" else y

    def batch(self, rows: Tensor | None = None, epoch: int = 0, rng: RNG | None = None) -> Batch:
        """Images and label probabilities at these rows, or all; the same in every epoch."""
        if rows is None:
            return Batch(self.x, self.y)
        rows = rows.to(self.x.device)
        return Batch(send(self.x[rows], self.device), send(self.y[rows], self.device))

    def to(self, device: torch.device) -> Distilled:
        """The same set with its tensors on another device; of a mapped one only the batches go there."""
        if self.mapped:
            return Distilled(self.tensors, self.card, self.whitening, self.transform, self.folder, True, device)
        return Distilled({name: value.to(device) for name, value in self.tensors.items()}, self.card,
                         None if self.whitening is None else self.whitening.to(device), self.transform, self.folder)
