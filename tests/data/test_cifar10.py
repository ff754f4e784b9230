"""CIFAR-10: names from the archive, colors in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datastill.data import Data


def test_names_and_colors(publish: Callable[[str], Any], tmp_path: Path) -> None:
    images, _ = publish("cifar10").train
    train = Data(source="cifar10").load(tmp_path).train
    assert train.classes == tuple(f"class {i}" for i in range(10))
    assert train.shape == (3, 32, 32)
    assert train.pixels[7, :, 2, 5].tolist() == images[7, 2, 5].tolist()


def test_batches_stay_in_order(publish: Callable[[str], Any], tmp_path: Path) -> None:
    _, targets = publish("cifar10").train
    assert Data(source="cifar10").load(tmp_path).train.targets.tolist() == targets.tolist()
