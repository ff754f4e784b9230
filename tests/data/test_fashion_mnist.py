"""FashionMNIST: names, shape, statistics, and a folder of its own beside MNIST."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datastill.data import Data


def test_articles_are_named(publish: Callable[[str], Any], tmp_path: Path) -> None:
    publish("fashion_mnist")
    train = Data(source="fashion_mnist").load(tmp_path).train
    assert train.classes[0] == "T-shirt/top"
    assert train.classes[-1] == "Ankle boot"
    assert train.shape == (1, 28, 28)
    assert (train.mean, train.std) == ((0.2861,), (0.3530,))


def test_it_is_not_taken_for_mnist(publish: Callable[[str], Any], tmp_path: Path) -> None:
    publish("mnist").unpack(tmp_path)
    publish("fashion_mnist").unpack(tmp_path)
    digits, clothes = (Data(source=name).load(tmp_path).train for name in ("mnist", "fashion_mnist"))
    assert digits.fingerprint != clothes.fingerprint
