"""Arrays in one .npz file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datastill.data import Data
from datastill.errors import InputError
from kit import input_error

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 5, 6), dtype=np.uint8)
LABELS = np.arange(9) % 3
Npz = Callable[..., Data]


@pytest.mark.parametrize("images", [IMAGES, IMAGES[..., None], np.repeat(IMAGES[..., None], 3, axis=3)])
def test_gray_and_color_images(npz: Npz, tmp_path: Path, images: np.ndarray) -> None:
    data = npz(x_train=images, y_train=LABELS, x_test=images[:2], y_test=LABELS[:2])
    train, _, test = data.load(tmp_path)
    assert train.shape == ((3 if images.shape[-1] == 3 else 1), 5, 6)
    assert np.array_equal(train.pixels[:, 0].numpy(), IMAGES)
    assert np.array_equal(test.pixels[:, 0].numpy(), IMAGES[:2])
    assert train.targets.tolist() == LABELS.tolist()


@pytest.mark.parametrize("targets", [LABELS[:, None], LABELS.astype(np.uint8), LABELS.astype(np.int32)])
def test_targets_of_any_whole_type_and_as_a_column(npz: Npz, tmp_path: Path, targets: np.ndarray) -> None:
    train = npz(x_train=IMAGES, y_train=targets, x_test=IMAGES, y_test=targets).load(tmp_path).train
    assert train.targets.tolist() == LABELS.tolist()


def test_classes_are_named_by_the_file_or_by_number(npz: Npz, tmp_path: Path) -> None:
    assert npz(classes=np.array(["dog", "cat", "cow"])).load(tmp_path).train.classes == ("dog", "cat", "cow")
    assert npz().load(tmp_path).train.classes == ("0", "1", "2")


def test_without_a_test_split_a_part_is_kept(npz: Npz, tmp_path: Path) -> None:
    train, _, test = npz({"test": 0.3}).load(tmp_path)
    assert (len(train), len(test)) == (21, 9)


def test_a_test_split_of_one_image(npz: Npz, tmp_path: Path) -> None:
    data = npz(x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:1], y_test=LABELS[:1])
    assert len(data.load(tmp_path).test) == 1


def without(name: str, path: Path) -> None:
    """Write the file again without one array."""
    with np.load(path) as file:
        rest = {key: file[key] for key in file.files if key != name}
    np.savez(path, **rest)


@pytest.mark.parametrize("name", ["x_train", "y_train"])
def test_a_missing_array_is_named(npz: Npz, tmp_path: Path, name: str) -> None:
    data = npz(extra=LABELS)
    without(name, tmp_path / "set.npz")
    with input_error("set.npz", f"no array '{name}'", "extra", "x_train (N, H, W)"):
        data.load(tmp_path)


@pytest.mark.parametrize(("arrays", "parts"), [
    ({"x_test": IMAGES}, ("only one of x_test and y_test",)),
    ({"x_train": IMAGES / 255, "y_train": LABELS}, ("x_train is float64", "uint8")),
    ({"x_train": IMAGES, "y_train": LABELS / 2}, ("y_train is float64", "integers")),
    ({"x_train": IMAGES, "y_train": LABELS > 0}, ("y_train is bool",)),
    ({"x_train": IMAGES, "y_train": np.eye(3, dtype=int)[LABELS]}, ("y_train", "(9, 3)")),
    ({"x_train": IMAGES, "y_train": LABELS[:5]}, ("9 training images but 5 targets",)),
    ({"x_train": IMAGES, "y_train": LABELS + 1}, ("class '0' has no training images",)),
    ({"x_train": IMAGES, "y_train": LABELS - 1}, ("targets range from -1",)),
    ({"x_train": IMAGES[..., None, None], "y_train": LABELS}, ("(9, 5, 6, 1, 1)",)),
    ({"classes": np.array(["a", "b"])}, ("targets range from 0 to 2", "2 classes")),
    ({"classes": np.array(["a", "b", "b"])}, ("not unique",)),
    ({"classes": np.array("abc")}, ("classes",)),
    ({"y_train": np.array(["a", "b"] * 15)}, ("y_train", "integers")),
])
def test_a_wrong_array_is_explained(npz: Npz, tmp_path: Path, arrays: dict[str, Any], parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        npz(**arrays).load(tmp_path)


class Trap:
    """Unpickling it would touch a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_arrays_are_refused_and_not_run(npz: Npz, tmp_path: Path) -> None:
    data = npz(classes=np.array([Trap(tmp_path / "sprung"), 1, 2], dtype=object))
    with input_error("set.npz", "cannot be read"):
        data.load(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_says_what_is_expected(tmp_path: Path) -> None:
    with input_error(f"no file {tmp_path / 'nothing.npz'}", "data.path", "x_train (N, H, W)"):
        Data(source="npz", path="nothing.npz").load(tmp_path)


@pytest.mark.parametrize("split", ["y_train", "y_test"])
@pytest.mark.parametrize(("label", "dtype"), [(2_000_000_000, np.int64), (2**63 + 5, np.uint64), (9, np.uint8)])
def test_a_label_beyond_the_number_of_images_is_refused(
        npz: Npz, tmp_path: Path, split: str, label: int, dtype: type) -> None:
    odd = LABELS.astype(dtype)
    odd[-1] = label
    sound = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS}
    with input_error("set.npz", f"targets go up to {label} but there are only 9 training images", "expected 0 to K - 1"):
        npz(**{**sound, split: odd}).load(tmp_path)


def test_a_label_beyond_no_images_at_all_is_refused(npz: Npz, tmp_path: Path) -> None:
    with input_error("targets go up to 2000000000 but there are only 0 training images"):
        npz(x_train=IMAGES[:0], y_train=LABELS[:0], x_test=IMAGES[:1], y_test=LABELS[:1] + 2_000_000_000).load(tmp_path)


@pytest.mark.parametrize("name", ["\udcff", ""])
def test_an_unwritable_class_name_is_refused(npz: Npz, tmp_path: Path, name: str) -> None:
    with input_error("npz", repr(name)):
        npz(classes=np.array(["a", "b", name])).load(tmp_path)


def test_no_path_is_explained(tmp_path: Path) -> None:
    with input_error("data.path"):
        Data(source="npz").load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 but cut off"])
def test_another_kind_of_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with input_error(str(tmp_path / "set.npz"), "cannot be read"):
        Data(source="npz", path="set.npz").load(tmp_path)


def test_a_single_array_is_not_an_npz_file(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", IMAGES)
    with input_error(str(tmp_path / "set.npy")):
        Data(source="npz", path="set.npy").load(tmp_path)


def outcome(data: Data, root: Path) -> str | Exception:
    """The fingerprint of the training images, or what was raised."""
    try:
        return data.load(root).train.fingerprint
    except Exception as error:
        return error


def test_a_damaged_file_is_refused_whatever_the_damage(tmp_path: Path) -> None:
    """Each third byte of a small compressed file turned over: the same images, or one line that names the file."""
    path, data = tmp_path / "set.npz", Data(source="npz", path="set.npz")
    np.savez_compressed(path, x_train=IMAGES, y_train=LABELS)
    content, whole = path.read_bytes(), outcome(data, tmp_path)
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1:])
        found = outcome(data, tmp_path)
        assert found == whole or (isinstance(found, InputError) and "set.npz" in str(found)), f"byte {place}: {found!r}"
