"""The checks every dataset passes before it is used."""

from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datastill.data import Lazy
from datastill.data.source import Arrays, check_arrays, read_npy
from kit import input_error


def arrays(**changes: Any) -> Arrays:
    """A sound set of two classes, with changes."""
    images = np.zeros((4, 5, 6, 3), dtype=np.uint8)
    sound = {"train": (images, np.array([0, 1, 0, 1])), "test": (images[:2], np.array([0, 1])), "classes": ("a", "b")}
    return Arrays(**{**sound, **changes})


def gray(count: int, dtype: type = np.uint8, channels: int = 1) -> np.ndarray:
    return np.zeros((count, 5, 6, channels), dtype=dtype)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32])
def test_a_sound_set_passes(dtype: type) -> None:
    sound = arrays(train=(gray(3), np.array([0, 1, 1], dtype=dtype)), test=None)
    assert check_arrays(sound, "mine") is sound
    assert check_arrays(arrays(), "mine").classes == ("a", "b")


@pytest.mark.parametrize(("changes", "parts"), [
    ({"classes": ("a",), "train": (gray(2), np.zeros(2, int))}, ("1 class", "at least two")),
    ({"classes": ("a", "a")}, ("not unique", "rename")),
    ({"classes": ("caf\u00e9", "cafe\u0301")}, ("not unique: caf\u00e9; ", "look the same")),
    ({"classes": ("a", "a ")}, ("not unique: a; ",)),
    ({"validation": (gray(0, channels=3), np.zeros(0, int))}, ("validation split is empty",)),
    ({"validation": (gray(2), np.array([0, 1]))}, ("training images are (5, 6, 3)", "validation images are (5, 6, 1)", "must match")),
    ({"validation": (gray(2, channels=3), np.array([0, 2]))}, ("validation targets range from 0 to 2",)),
    ({"classes": ("a", "b", "c")}, ("class 'c' has no training images",)),
    ({"train": (gray(2, np.float32), np.array([0, 1]))}, ("training images", "float32", "uint8")),
    ({"train": (gray(2, channels=2), np.array([0, 1]))}, ("training images", "(5, 6, 2)", "must match")),
    ({"train": (gray(2)[..., 0], np.array([0, 1]))}, ("training images", "(2, 5, 6)")),
    ({"train": (gray(3), np.array([0, 1]))}, ("3 training images but 2 targets",)),
    ({"train": (gray(2), np.array([0, 2]))}, ("training targets range from 0 to 2", "expected 0 to 1")),
    ({"train": (gray(2), np.array([-1, 1]))}, ("training targets range from -1 to 1",)),
    ({"train": (gray(0), np.zeros(0, int)), "test": None}, ("no training image",)),
    ({"test": (gray(0, channels=3), np.zeros(0, int))}, ("test split is empty",)),
    ({"test": (gray(2), np.array([0, 1]))}, ("(5, 6, 3)", "(5, 6, 1)", "must match")),
    ({"test": (gray(2, channels=3), np.array([0, 2]))}, ("test targets range from 0 to 2",)),
])
def test_an_unfit_set_is_explained(changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    with input_error("mine", *parts):
        check_arrays(arrays(**changes), "mine")


@pytest.mark.parametrize("name", ["\udcff", "a\ud800", "", " "])
def test_a_class_name_that_cannot_be_written_is_refused(name: str) -> None:
    with input_error("mine", "class", repr(name)):
        check_arrays(arrays(classes=("a", name)), "mine")


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, 0), (3, 4), (4, 3)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_without_pixels_are_refused(height: int, width: int, split: str) -> None:
    images = np.zeros((2, height, width, 3), dtype=np.uint8)
    with input_error("mine", f"{width}x{height}", "at least 4x4"):
        check_arrays(arrays(**{split: (images, np.array([0, 1]))}), "mine")


def test_splits_of_two_forms_pass_where_one_form_is_asked_for() -> None:
    odd = arrays(test=(np.zeros((2, 8, 9, 1), dtype=np.uint8), np.array([0, 1])))
    assert check_arrays(odd, "mine", size=7, channels=3) is odd
    for size, channels in ((7, None), (None, 3)):
        with input_error("must match"):
            check_arrays(odd, "mine", size, channels)
    with input_error("must match"):  # a Lazy is of the form asked for, or it is wrong
        check_arrays(arrays(test=(Unread(2, 3, 8, 9), np.array([0, 1]))), "mine", size=7)


def test_a_class_may_be_missing_in_the_test_split() -> None:
    check_arrays(arrays(test=(gray(1, channels=3), np.array([1]))), "mine")


class Unread(Lazy):
    """Images that the checks have no business to read."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape  # (N, C, H, W)

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        raise AssertionError("read")

    identity = __getitem__


def test_lazy_images_are_checked_without_reading() -> None:
    labels = np.array([0, 1])
    sound = arrays(train=(Unread(2, 3, 5, 6), labels))
    assert check_arrays(sound, "mine") is sound
    with input_error("(5, 6, 2)", "(5, 6, 3)", "must match"):
        check_arrays(arrays(train=(Unread(2, 2, 5, 6), labels)), "mine")
    with input_error("3 test images but 2 targets"):
        check_arrays(arrays(test=(Unread(3, 3, 5, 6), labels)), "mine")
    with input_error("(6, 5, 3)", "(5, 6, 3)", "must match"):
        check_arrays(arrays(train=(Unread(2, 3, 6, 5), labels)), "mine")


def test_npy_files_can_be_read_in_threads(tmp_path: Path) -> None:
    path, before = tmp_path / "image.npy", gc.get_threshold()
    np.save(path, np.ones((4, 5)))

    def switch(phase: str, info: dict[str, int]) -> None:
        time.sleep(0)

    gc.callbacks.append(switch)  # threads change places in the middle of a header
    gc.set_threshold(1)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert all(array.sum() == 20 for array in threads.map(read_npy, [path] * 1000))
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(switch)
