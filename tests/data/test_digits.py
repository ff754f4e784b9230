"""The embedded digits: there without a file, the same each time."""

from __future__ import annotations

from pathlib import Path

import torch

from datastill.data import Data


def test_digits_need_no_file(tmp_path: Path) -> None:
    train, validation, test = Data().load(tmp_path / "nowhere")
    assert train.classes == tuple("0123456789")
    assert train.shape == (1, 8, 8)
    assert validation is None
    assert len(train) + len(test) == 1797
    assert torch.bincount(test.targets).min() >= 34  # a fifth of each class


def test_gray_levels_use_the_whole_range(tmp_path: Path) -> None:
    pixels = Data().load(tmp_path).train.pixels
    assert pixels.dtype == torch.uint8
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert len(pixels.unique()) == 17


def test_digits_are_the_same_everywhere(tmp_path: Path) -> None:
    """The fingerprint is part of every digest, so it must not change between versions."""
    train, _, test = Data().load(tmp_path)
    assert (train.fingerprint, test.fingerprint) == ("d7b4dd1c9feb", "763b33e59c3d")
