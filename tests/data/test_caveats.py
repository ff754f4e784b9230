"""What is said about images before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datastill.data import Data

Make = Callable[..., Data]


def levels(*levels: int) -> list[Image.Image]:
    """Gray images of one level each."""
    return [Image.new("L", (4, 4), level) for level in levels]


def said(data: Data, root: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    data.load(root)
    return caplog.messages


def test_nothing_is_said_of_a_sound_set(tree: Make, npz: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trees = tree({"train/ant": levels(1, 2), "train/bee": levels(3), "test/ant": levels(5), "test/bee": levels(6)})
    assert said(trees, tmp_path, caplog) == said(npz(), tmp_path, caplog) == said(Data(), tmp_path, caplog) == []


def test_a_class_without_test_images_is_named(tree: Make, npz: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trees = tree({"train/ant": levels(1, 2), "train/bee": levels(3), "test/ant": [], "test/bee": levels(6)})
    assert said(trees, tmp_path, caplog) == ["folder: no test images of class ant; scores say nothing about it"]
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4), dtype=np.uint8)
    arrays: dict[str, Any] = {"x_train": images, "y_train": np.arange(9), "x_test": images[:1] // 2, "y_test": np.array([4])}
    assert said(npz(**arrays), tmp_path, caplog) == [
        "npz: no test images of class 0, 1, 2, 3, 5 and 3 more; scores say nothing about it"]


@pytest.mark.parametrize("names", [("Ant", "ant"), ("polar bear", "polar_bear"), ("Stra\u00dfe", "STRASSE"), ("ant", "\uff41nt")])
def test_names_that_hardly_differ_are_named(npz: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, str]) -> None:
    [text] = said(npz(classes=np.array([*names, "cow"])), tmp_path, caplog)
    assert text == f"npz: the names of these classes hardly differ: {names[0]!r}, {names[1]!r}; merge them if they are the same"


def test_images_in_both_splits_are_named(tree: Make, npz: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trees = tree({"train/ant": levels(1, 2), "train/bee": levels(3, 4), "test/ant": levels(1, 9, 2), "test/bee": levels(1, 4)})
    [text] = said(trees, tmp_path, caplog)
    assert text == ("folder: test images that are training images too, so that scores are too high: 4 (test/ant/00.png, "
                    "test/ant/02.png, test/bee/00.png); remove them from one of the two")
    images = np.arange(6, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    data = npz(x_train=images, y_train=np.arange(6) % 2, x_test=images[4:] + 1, y_test=np.arange(2))
    [text] = said(data, tmp_path, caplog)
    assert "scores are too high: 1 (number 0)" in text


def test_copies_that_end_in_both_splits_are_named(tree: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    [text] = said(tree({"ant": levels(1, 1, 1, 1, 1), "bee": levels(2, 3, 4, 5, 6)}), tmp_path, caplog)
    assert "scores are too high: 1 (ant/0" in text


def test_images_in_two_classes_are_named(tree: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    [text] = said(tree({"train/ant": levels(1, 2), "train/bee": levels(3, 2), "test/ant": levels(5), "test/bee": levels(6)}),
                  tmp_path, caplog)
    assert text == ("folder: training images that are in another class too: 1 (train/bee/01.png); remove them from one of "
                    "the two")


def test_validation_images_that_are_training_images_are_named(tree: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = {f"{split}/{name}": levels(10 * number, 10 * number + 1) for number, (split, name) in enumerate(
        (split, name) for split in ("train", "test", "val") for name in ("ant", "bee"))}
    [text] = said(tree({**folders, "val/bee": levels(99, 1)}), tmp_path, caplog)
    assert text == ("folder: validation images that are training images too, so that scores are too high: 1 (val/bee/01.png); "
                    "remove them from one of the two")
