"""MNIST: names, shape, statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datastill.data import Data


def test_digits_are_named_in_words(publish: Callable[[str], Any], tmp_path: Path) -> None:
    publish("mnist")
    train, _, test = Data(source="mnist").load(tmp_path)
    assert train.classes == ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert train.shape == test.shape == (1, 28, 28)
    assert (train.mean, train.std) == ((0.1307,), (0.3081,))
