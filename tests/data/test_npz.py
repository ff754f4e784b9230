"""Arrays in one .npz file."""

from __future__ import annotations

import zipfile
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


def test_a_file_of_another_kind_is_said_without_numpys_advice(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", IMAGES)
    np.savez(tmp_path / "objects.npz", x_train=np.array([{}, {}], object))
    (tmp_path / "text.npz").write_text("cat,dog")
    for name, says in (("one.npy", "it is no zip archive; numpy.savez writes one"), ("text.npz", "it is no zip archive; numpy.savez writes one"), ("objects.npz", "it holds Python objects")):
        with pytest.raises(InputError, match=f"^(?!.*pickle).*{name}.*{says}"):
            Data(source="npz", path=name).load(tmp_path)


@pytest.mark.parametrize("name", ["x_train", "y_train"])
def test_a_missing_array_is_named(npz: Npz, tmp_path: Path, name: str) -> None:
    data = npz(extra=LABELS)
    without(name, tmp_path / "set.npz")
    with input_error("set.npz", f"no array '{name}'", "extra", "x_train (N, H, W)"):
        data.load(tmp_path)


@pytest.mark.parametrize(("arrays", "parts"), [
    ({"x_test": IMAGES}, ("only one of x_test and y_test",)),
    ({"x_train": IMAGES / 255, "y_train": LABELS}, ("training images are float64", "uint8", "data.range=[0.0,1.0]")),
    ({"x_train": IMAGES, "y_train": LABELS / 2}, ("y_train: expected integers", "float64")),
    ({"x_train": IMAGES, "y_train": LABELS > 0}, ("y_train: expected integers or names (N,), got ndarray bool of shape (9,)",)),
    ({"x_train": IMAGES, "y_train": np.eye(3, dtype=int)[LABELS]}, ("y_train", "(9, 3)")),
    ({"x_train": IMAGES, "y_train": LABELS[:5]}, ("9 training images but 5 targets",)),
    ({"x_train": IMAGES, "y_train": LABELS + 1}, ("class '0' has no training images",)),
    ({"x_train": IMAGES, "y_train": LABELS - 1}, ("targets range from -1",)),
    ({"x_train": IMAGES[..., None, None], "y_train": LABELS}, ("(9, 5, 6, 1, 1)",)),
    ({"classes": np.array(["a", "b"])}, ("targets range from 0 to 2", "2 classes")),
    ({"classes": np.array(["a", "b", "b"])}, ("not unique",)),
    ({"classes": np.array("abc")}, ("classes",)),
    ({"y_train": np.array(["a", "b"] * 15), "classes": np.array(["a", "c"])}, ("labels b are not among the classes a, c",)),
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


@pytest.mark.parametrize("name", ["x_train", "x_train.npy", "notes.txt"])
def test_a_zip_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "set.npz", y_train=LABELS, **({} if "x" in name[:1] else {"x_train": IMAGES}))
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as file:
        file.writestr(name, "text")
    with input_error(str(tmp_path / "set.npz"), "cannot be read as .npz", name.removesuffix(".npy"), "is not an array"):
        Data(source="npz", path="set.npz").load(tmp_path)


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


# --- other names, kinds of labels, kinds of numbers -------------------------------------------------------------------


def written(path: Path, arrays: dict[str, np.ndarray], **options: Any) -> Data:
    np.savez(path / "set.npz", **arrays)
    return Data(source="npz", path="set.npz", **options)


NAMES = {"MedMNIST": ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
         "this library": ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
         "capitals": ("X_train", "Y_train", "X_valid", "Y_valid", "X_test", "Y_test"), "split last": ("images_train", "labels_train", "images_val", "labels_val", "images_test", "labels_test"),
         "bare": ("images", "labels", "valid_x", "valid_y", "test_x", "test_y"), "data": ("data", "target", "data_dev", "target_dev", "data_test", "target_test")}


@pytest.mark.parametrize("names", NAMES)
def test_usual_names_of_all_three_splits(tmp_path: Path, names: str) -> None:
    values = (IMAGES, LABELS[:, None], IMAGES[3:6], LABELS[3:6, None], IMAGES[:3], LABELS[:3, None])
    data = written(tmp_path, dict(zip(NAMES[names], values, strict=True)))
    train, validation, test = data.load(tmp_path)
    assert validation is not None
    for images, pixels in ((train, IMAGES), (validation, IMAGES[3:6]), (test, IMAGES[:3])):
        assert np.array_equal(images.pixels[:, 0].numpy(), pixels)  # type: ignore[union-attr]
        assert images.mean == train.mean
    assert (len(validation), data.model_copy(update={"classes": ("2", "0")}).load(tmp_path).validation.targets.tolist()) == (3, [1, 0])  # type: ignore[union-attr]
    asked = data.model_copy(update={"validation": 0.34}).load(tmp_path)
    assert (len(asked.train), len(asked.validation or ())) == (6, 3)
    assert {image.numpy().tobytes() for image in (*asked.train.pixels, *asked.validation.pixels)} == {image.tobytes() for image in IMAGES}  # type: ignore[union-attr, misc]


def test_validation_images_are_the_test_split_if_there_is_no_other(tmp_path: Path) -> None:
    _, validation, test = written(tmp_path, {"x_train": IMAGES, "y_train": LABELS, "x_val": IMAGES[:3], "y_val": LABELS[:3]}).load(tmp_path)
    assert (validation, len(test)) == (None, 3)


@pytest.mark.parametrize("labels", [np.array(["b", "a", "c"] * 3), np.array([b"b", b"a", b"c"] * 3)])
def test_labels_may_be_names(tmp_path: Path, labels: np.ndarray) -> None:
    arrays = {"x_train": IMAGES, "y_train": labels, "x_test": IMAGES[:1], "y_test": labels[:1]}
    train, _, test = written(tmp_path, arrays).load(tmp_path)
    assert (train.classes, train.targets.tolist(), test.targets.tolist()) == (("a", "b", "c"), [1, 0, 2] * 3, [1])
    ordered = written(tmp_path, {**arrays, "classes": np.array([b"c", b"b", b"a"])}).load(tmp_path).train
    assert (ordered.classes, ordered.targets.tolist()) == (("c", "b", "a"), [1, 2, 0] * 3)


def test_numbers_as_names_are_in_their_order(tmp_path: Path) -> None:
    assert written(tmp_path, {"x_train": IMAGES, "y_train": np.array(["10", "9", "b2"] * 3)}, test=0.3).load(tmp_path).train.classes == ("9", "10", "b2")


@pytest.mark.parametrize(("arrays", "parts"), [
    ({"x_train": IMAGES, "y_train": np.eye(3, dtype=int)[LABELS]}, ("several labels per image (multi-label)", "argmax(1)")),
    ({"train_images": IMAGES, "train_labels": LABELS, "train_data": IMAGES}, ("train_images and train_data", "x_train")),
    ({"train_images": IMAGES, "train_labels": LABELS, "val_images": IMAGES}, ("only one of x_val and y_val",)),
    ({"x_train": IMAGES.transpose(0, 2, 1)[:, None].repeat(3, 1), "y_train": LABELS}, ("(9, 3, 6, 5)", "another order of axes", "transpose(0, 2, 3, 1)")),
    ({"x_train": np.zeros((9, 12, 32, 32), np.uint8), "y_train": LABELS}, ("(9, 12, 32, 32)", "another order of axes")),
])
def test_what_is_unclear_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], parts: tuple[str, ...]) -> None:
    with input_error("set.npz" if "transpose" not in parts[-1] and "axes" not in parts[-1] else "npz", *parts):
        written(tmp_path, arrays).load(tmp_path)


@pytest.mark.parametrize(("dtype", "low", "high"), [(np.float32, -2.0, 2.0), (np.float64, 0.0, 1.0), (np.float16, 0, 255), (np.uint16, 0, 65535), (np.int16, -300, 300)])
def test_a_stated_range_is_mapped_linearly(tmp_path: Path, dtype: type, low: float, high: float) -> None:
    images = (low + IMAGES / 255 * (high - low)).round(6 if np.issubdtype(dtype, np.floating) else 0).astype(dtype)
    images.flat[:2] = low, high
    data = written(tmp_path, {"x_train": images, "y_train": LABELS, "x_test": images, "y_test": LABELS})
    with input_error(f"training images are {np.dtype(dtype)} with values from {images.min()} to {images.max()}", f"data.range=[{images.min()},{images.max()}]"):
        data.load(tmp_path)
    for split in data.model_copy(update={"range": (low, high)}).load(tmp_path)[::2]:
        wanted = (images.astype(np.float64) - low) / (high - low) * 255
        assert np.abs(split.pixels[:, 0].numpy() - wanted).max() <= 0.5 + 1e-3  # type: ignore[union-attr]


def test_values_outside_the_range_are_counted_and_refused(tmp_path: Path) -> None:
    images = IMAGES.astype(np.float32)
    images[0, 0, :2] = -1, 300
    for split, arrays in (("training", {"x_train": images, "y_train": LABELS}), ("test", {"x_train": IMAGES, "y_train": LABELS, "x_test": images, "y_test": LABELS})):
        with input_error(f"{split} images: 2 of 270 values outside data.range=[0, 255]", "-1 to 300"):
            written(tmp_path, arrays, range=[0, 255]).load(tmp_path)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_values_that_are_not_finite_are_said_before_a_range_is_proposed(tmp_path: Path, odd: float) -> None:
    images = IMAGES.astype(np.float32)
    images[0, 0, 0] = odd
    for options in ({}, {"range": [0, 255]}):
        with input_error("training images: not finite: 1 of 270 values (nan or infinite); replace them"):
            written(tmp_path, {"x_train": images, "y_train": LABELS}, **options).load(tmp_path)


@pytest.mark.parametrize("images", [np.float32(1), IMAGES > 9, IMAGES * 1j, np.array(["a"] * 9)])
def test_what_is_no_array_of_numbers_is_refused(tmp_path: Path, images: Any) -> None:
    for options in ({}, {"range": (0, 1)}):
        with input_error("training images", str(np.asarray(images).dtype)):
            written(tmp_path, {"x_train": images, "y_train": LABELS}, **options).load(tmp_path)


@pytest.mark.parametrize("limits", [[1, 0], [0, 0], [0, float("inf")], [0], "a,b", [-1e308, 1e308]])
def test_a_range_rises(limits: Any) -> None:
    with input_error("range"):
        Data(source="npz", range=limits)
    assert Data(source="npz", range="0, 1").range == (0, 1)  # type: ignore[arg-type]


def test_a_range_is_not_for_files_read_in_8_bits(tmp_path: Path) -> None:
    with input_error("digits", "outside data.range=[0, 100]"):
        Data(source="digits", range=(0, 100)).load(tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [2, 4, 12])
def test_any_number_of_channels(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, channels), dtype=np.uint8)
    data = written(tmp_path, {"x_train": images, "y_train": LABELS}, test=0.3)
    assert data.load(tmp_path).train.shape == (channels, 8, 8)
    assert data.model_copy(update={"size": 6}).load(tmp_path).train.shape == (channels, 6, 6)
    for wanted in (1, 3):
        with input_error("data.channels", f"{channels} channels"):
            data.model_copy(update={"channels": wanted}).load(tmp_path)


@pytest.mark.parametrize(("labels", "says"), [
    ([-1, 0] * 10, "labels from -1 to 0"), ([0] * 20, "all training images are of class 0"), ([], "no training images"),
])
def test_what_came_instead_of_two_classes_is_said(labels: list[int], says: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x_train=np.zeros((len(labels), 8, 8), np.uint8), y_train=np.array(labels, dtype=int))
    with input_error(says, "needs at least two"):
        Data(source="npz", path="set.npz").load(tmp_path)
