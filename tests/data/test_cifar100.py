"""CIFAR-100: the hundred fine classes, not the twenty coarse ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datastill.data import Data


def test_the_fine_classes_are_read(publish: Callable[[str], Any], tmp_path: Path) -> None:
    publish("cifar100")
    train, _, test = Data(source="cifar100").load(tmp_path)
    assert len(train.classes) == 100
    assert set(train.targets.tolist()) == set(test.targets.tolist()) == set(range(100))
    assert train.mean == (0.5071, 0.4866, 0.4409)
