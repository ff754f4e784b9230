"""Images of any map-style dataset: what an item may be, what is taken from the dataset, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision.transforms.v2.functional import pil_to_tensor, to_dtype

import datastill as ds
import tiny
from datastill.data import Data, Images, Lazy
from datastill.data.images import mean_and_std
from kit import input_error, toy_images


def arrays(count: int = 6, channels: int = 1, side: tuple[int, int] = (5, 4)) -> np.ndarray:
    """Random images (N, H, W, C) uint8."""
    return np.random.default_rng(channels).integers(0, 256, (count, *side, channels), dtype=np.uint8)


def pil(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


FORMS: dict[str, tuple[int, Callable[[np.ndarray], Any]]] = {
    "PIL gray": (1, pil), "PIL color": (3, pil), "array (H, W)": (1, lambda image: image[..., 0]), "array (H, W, 1)": (1, lambda image: image),
    "array (H, W, 3)": (3, lambda image: image), "uint8 tensor (1, H, W)": (1, lambda image: pil_to_tensor(pil(image))),
    "uint8 tensor (3, H, W)": (3, lambda image: pil_to_tensor(pil(image))), "uint8 tensor (H, W)": (1, lambda image: torch.from_numpy(image[..., 0])),
    "ToTensor gray": (1, lambda image: to_dtype(pil_to_tensor(pil(image)), torch.float32, scale=True)),
    "ToTensor color": (3, lambda image: to_dtype(pil_to_tensor(pil(image)), torch.float32, scale=True)),
    "double": (1, lambda image: torch.from_numpy(image[..., 0]).double() / 255)}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_image_is_the_same_pixels(form: str) -> None:
    channels, of = FORMS[form]
    stored = arrays(channels=channels)
    images = Images.from_dataset([(of(image), number % 3) for number, image in enumerate(stored)])
    assert images.pixels.dtype == torch.uint8  # type: ignore[union-attr]
    assert np.array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), stored)  # type: ignore[union-attr]
    assert images.targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert (images.shape, images.classes) == ((channels, 5, 4), ("0", "1", "2"))
    assert (images.mean, images.std) == mean_and_std(images)
    assert images.mean == pytest.approx((stored / 255).mean((0, 1, 2)), abs=1e-4)
    assert images.std == pytest.approx((stored / 255).std((0, 1, 2)), abs=1e-4)


@pytest.mark.parametrize("label", [1, np.int64(1), np.uint8(1), torch.tensor(1), torch.tensor([1]), np.array(1), True])
def test_every_form_of_a_whole_number_is_a_label(label: Any) -> None:
    image = arrays(1)[0]
    assert Images.from_dataset([(image, 0), (image, label)]).targets.tolist() == [0, 1]


class Named(list[Any]):
    """A dataset that names its classes."""

    classes = ("ant", "bee", "cow")


def pairs(cls: type = list, count: int = 6) -> Any:
    return cls((image, number % 3) for number, image in enumerate(arrays(count)))


def test_classes_are_those_given_or_the_datasets_or_numbers() -> None:
    assert Images.from_dataset(pairs()).classes == ("0", "1", "2")
    assert Images.from_dataset(pairs(Named)).classes == ("ant", "bee", "cow")
    assert Images.from_dataset(pairs(Named), classes=["x", "y", "z"]).classes == ("x", "y", "z")


def test_mean_and_std_may_be_given() -> None:
    images = Images.from_dataset(pairs(), mean=[0.1], std=[0.7])
    assert (images.mean, images.std) == ((0.1,), (0.7,))


def test_classes_mean_and_std_are_those_of_the_training_images() -> None:
    train = Images.from_dataset(pairs(Named), mean=[0.1], std=[0.7])
    test = Images.from_dataset(pairs(count=3), like=train)
    assert (test.classes, test.mean, test.std) == (train.classes, (0.1,), (0.7,))
    own = Images.from_dataset(pairs(count=3), like=train, classes=["p", "q", "r"], mean=[0.3], std=[0.4])
    assert (own.classes, own.mean, own.std) == (("p", "q", "r"), (0.3,), (0.4,))


def test_what_it_was_made_of_is_known_by_its_name() -> None:
    assert Images.from_dataset(pairs(Named)).origin == "Named"
    tensors = TensorDataset(torch.from_numpy(arrays()).permute(0, 3, 1, 2), torch.arange(6) % 3)
    one = Images.from_dataset(tensors)
    assert one.origin == "TensorDataset"
    assert torch.equal(one.pixels, tensors.tensors[0])  # type: ignore[arg-type]
    assert Images.from_dataset(Subset(tensors, range(3))).targets.tolist() == [0, 1, 2]
    assert len(Images.from_dataset(ConcatDataset([tensors, tensors]))) == 12


def test_the_content_decides_the_fingerprint() -> None:
    first, again, other = (Images.from_dataset(pairs(cls, count)) for cls, count in ((list, 6), (list, 6), (list, 9)))
    assert first.fingerprint == again.fingerprint != other.fingerprint


IMAGE = arrays(1)[0]


def broken(*last: Any) -> list[Any]:
    return [(IMAGE, 0), (IMAGE, 1), *last]


@pytest.mark.parametrize(("dataset", "parts"), [
    (broken((torch.full((1, 5, 4), -0.5), 0)), ("list[2]", "-0.5 to -0.5", "expected 0 to 1", "normalization")),
    (broken((torch.full((1, 5, 4), 1.5), 0)), ("list[2]", "1.5")),
    (broken((torch.full((1, 5, 4), float("nan")), 0)), ("list[2]", "nan")),
    (broken(IMAGE), ("list[2] is not a pair", "got ndarray uint8 of shape (5, 4, 1)")), (broken((IMAGE, 0, 0)), ("list[2] is not a pair", "got (array(")), (broken(7), ("list[2] is not a pair", "got 7")),
    (broken((IMAGE, 0.5)), ("list[2] is not a pair of an image and an integer label: its label is 0.5",)), (broken((IMAGE, "cat")), ("its label is 'cat'",)),
    (broken((IMAGE, torch.tensor(1.0))), ("its label is tensor(1.)",)), (broken((IMAGE, torch.ones(3))), ("its label is torch.float32 of shape (3,)", "one-hot", "argmax")),
    ([(None, 0)] * 3, ("list[0]: expected an image of numbers", "got None")), (broken(([[1, 2], [3]], 0)), ("list[2]: expected an image", "got [[1, 2], [3]]", "ValueError")),
    (broken((torch.eye(4).to_sparse(), 0)), ("list[2]: expected an image", "TypeError")), (broken((torch.empty(1, 5, 4, device="meta"), 0)), ("list[2]: expected an image", "meta")),
    (broken((IMAGE > 0, 0)), ("list[2]: expected an image of numbers", "got ndarray bool of shape (5, 4, 1)")), ({}, ("got an empty dict",)),
    (broken((arrays(1, side=(6, 4))[0], 0)), ("list[2] has shape (6, 4, 1)", "list[0] has (5, 4, 1)", "one size")),
    (broken((arrays(1, 3)[0], 0)), ("list[2] has shape (5, 4, 3)",)),
    ([(IMAGE, 0), (IMAGE, 0)], ("1 class", "at least two")), ([], ("0 classes (no training images)",)),
    ([(IMAGE, 0), (IMAGE, 2)], ("class '1' has no",)), ([(IMAGE, 0), (IMAGE, -1), (IMAGE, 1)], ("-1",)),
    ([(IMAGE.astype(np.float32), 0), (IMAGE.astype(np.float32), 1)], ("float32", "uint8")),
    ([(arrays(1, side=(3, 3))[0], 0), (arrays(1, side=(3, 3))[0], 1)], ("3x3", "4x4")),
    ([(torch.zeros(2, 1, 5, 4), 0), (torch.zeros(2, 1, 5, 4), 1)], ("(2, 1, 5, 4)", "tensor (C, H, W)")),
    (iter([(IMAGE, 0)]), ("map-style dataset",)), (7, ("map-style dataset", "int")),
])
def test_what_is_no_dataset_of_images_is_refused(dataset: Any, parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        Images.from_dataset(dataset)


@pytest.mark.parametrize(("options", "parts"), [
    ({"mean": [0.5, 0.5], "std": [0.2]}, ("mean", "each channel (1)", "(0.5, 0.5)")), ({"mean": [0.5], "std": [0.0]}, ("positive std",)),
    ({"classes": ["a", "b"]}, ("2 classes",)), ({"classes": ["a", "a", "b"]}, ("unique",)), ({"like": toy_images(2)}, ("2 classes",)),
])
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        Images.from_dataset(pairs(), **options)


def test_images_to_score_on_may_lack_a_class() -> None:
    train = Images.from_dataset(TensorDataset(torch.rand(6, 1, 5, 5), torch.arange(6) % 3), classes=["a", "b", "c"])
    two = TensorDataset(torch.rand(4, 1, 5, 5), torch.arange(4) % 2)
    assert Images.from_dataset(two, like=train).classes == ("a", "b", "c")
    with input_error("class 'c' has no training image"):
        Images.from_dataset(two, classes=["a", "b", "c"])


def test_images_to_score_on_have_the_classes_of_the_training_images_in_their_order() -> None:
    train = Images.from_dataset(TensorDataset(torch.rand(6, 1, 5, 5), torch.arange(6) % 3), classes=["a", "b", "c"])
    test = TensorDataset(torch.rand(6, 1, 5, 5), torch.arange(6) % 3)
    test.classes = ["c", "b", "a"]  # type: ignore[attr-defined]
    with input_error("the classes of TensorDataset are ('c', 'b', 'a')", "('a', 'b', 'c')"):
        Images.from_dataset(test, like=train)
    test.classes = ["a", "b", "c"]  # type: ignore[attr-defined]
    assert Images.from_dataset(test, like=train).classes == train.classes


# --- datasets of other forms ------------------------------------------------------------------------------------------


X, Y = torch.from_numpy(arrays(12, 3, (6, 6))).permute(0, 3, 1, 2), torch.arange(12) % 3


class Tensors(TensorDataset):
    """Tensors with class names."""

    classes = ["ant", "bee", "cow"]  # noqa: RUF012


class HuggingFace(list[Any]):
    """Items are dictionaries; the features name the classes."""

    features = {"label": type("ClassLabel", (), {"names": ["ant", "bee", "cow"]})()}  # noqa: RUF012


@pytest.mark.parametrize("dataset", [
    (X, Y), [X, Y[:, None]], (X.float() / 255, Y), (arrays(12, 3, (6, 6)), Y.numpy()), (arrays(12, 3, (6, 6)) / 255, Y.numpy()), TensorDataset(X, Y), Subset(Tensors(X, Y), range(12)),
    ConcatDataset([Tensors(X[:6], Y[:6]), Tensors(X[6:], Y[6:])]), HuggingFace({"img": pil(image), "label": int(y)} for image, y in zip(arrays(12, 3, (6, 6)), Y, strict=True))])
def test_every_form_of_a_dataset_is_the_same_images(dataset: Any) -> None:
    images = Images.from_dataset(dataset)
    assert torch.equal(images.pixels, X)  # type: ignore[arg-type]
    assert torch.equal(images.targets, Y)
    assert images.classes in (("0", "1", "2"), ("ant", "bee", "cow"))
    assert (images.classes[0] == "ant") == (not isinstance(dataset, (tuple, TensorDataset)) and type(dataset) is not list)


def test_a_part_of_a_dataset_has_the_classes_that_occur() -> None:
    odd = Subset(Tensors(X, Y), [row for row in range(12) if row % 3 != 1])
    images = Images.from_dataset(odd)
    assert (images.classes, images.targets.tolist()) == (("ant", "cow"), [0, 1] * 4)
    assert Images.from_dataset(Subset(Tensors(X, Y), [2, 5]), like=images).targets.tolist() == [1, 1]
    with input_error("('ant', 'bee', 'cow')", "('ant', 'cow')", "it also has ['bee']"):
        Images.from_dataset(Tensors(X, Y), like=images)
    with input_error("it also has ['bee']"):
        Images.from_dataset(Subset(Tensors(X, Y), [1]), like=images)
    with input_error("it lacks ['cow']"):
        Images.from_dataset(named(Tensors(X[:2], Y[:2]), ["ant", "bee"]), like=Images.from_dataset(Tensors(X, Y)))


def named(dataset: Any, classes: Any) -> Any:
    dataset.classes = classes
    return dataset


def test_parts_with_different_classes_are_refused() -> None:
    with input_error("the parts of ConcatDataset have different classes"):
        Images.from_dataset(ConcatDataset([Tensors(X, Y), named(Tensors(X, Y), ["cow", "bee", "ant"])]))


def test_images_stay_as_they_are() -> None:
    images = toy_images()
    assert Images.from_dataset(images) is images
    with input_error("Images", "dataclasses.replace"):
        Images.from_dataset(images, classes=["x", "y", "z"])


class Broken(list[Any]):
    """Fails when it is read."""

    def __getitem__(self, row: Any) -> Any:
        raise KeyError("no\nrow")


@pytest.mark.parametrize(("dataset", "parts"), [
    ("folder", ("'folder'", "Data(source='folder'")), (None, ("NoneType",)), ({"train": (X, Y)}, ("dict", "'train'", "one split")), (Broken([1]), ("Broken[0] raised KeyError: 'no\\nrow' (", "test_memory.py, line")),
    (Data(source="digits"), ("Data",)), (torch.utils.data.DataLoader(TensorDataset(X, Y)), ("DataLoader", "pass its dataset")), ((X, Y[:5]), ("(12, 3, 6, 6)", "(5,)")), (X, ("is not a pair",)),
    ((X, torch.eye(3)[Y]), ("integer label",)), ([{"pic": IMAGE, "label": 0}], ("'pic', 'label'", "image, img")), ([{"image": IMAGE, "img": IMAGE, "label": 0}], ("one image",)),
    (broken((IMAGE, 10**12)), ("1000000000000", "0 to K - 1")), (broken((IMAGE, 2**70)), (str(2**70),)), (broken((IMAGE, 20190101)), ("go up to 20190101", "only 3 images")),
    (broken((IMAGE.astype(np.uint16), 0)), ("uint16", "state the range of all images, as in range=(low, high)")), (broken((pil(IMAGE).convert("P"), 0)), ("mode P", "convert")), (broken((pil(IMAGE).convert("RGBA"), 0)), ("mode RGBA",)),
    (broken((Image.fromarray(IMAGE[..., 0].astype(np.uint16)), 0)), ("mode I;16",)), ((X.permute(0, 2, 3, 1), Y), ("another order of axes",)), ((X.numpy(), Y.numpy()), ("another order of axes",)),
    ((X.float() * float("nan"), Y), ("arrays[0]: not finite: 108 of 108 values (nan or infinite)",)), ((torch.full((12, 3, 6, 6), True), Y), ("arrays[0]: expected an image of numbers",)),
])
def test_what_is_unclear_is_refused(dataset: Any, parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        Images.from_dataset(dataset)


@pytest.mark.parametrize("where", ["__getitem__", "__len__"])
def test_a_dataset_that_ends_the_process_is_reported(where: str) -> None:
    def leave(*arguments: Any) -> Any:
        raise SystemExit(0)

    ends = type("Ends", (), {"__len__": lambda self: 1, "__getitem__": lambda self, row: (IMAGE, 0), where: leave})
    with input_error("Ends", "raised SystemExit: 0 (", "test_memory.py, line"):
        Images.from_dataset(ends())


def test_mean_and_std_are_measured_if_they_are_empty() -> None:
    images = Images(X, Y, ("a", "b", "c"), (), ())
    assert Images.from_dataset(images).fingerprint == Images.from_dataset((X, Y), classes=["a", "b", "c"]).fingerprint


@pytest.mark.parametrize(("options", "parts"), [
    ({"mean": [0.5]}, ("only mean",)), ({"std": [0.5]}, ("only std",)), ({"mean": "abc", "std": "abc"}, ("mean", "'abc'")), ({"mean": 0.5, "std": 0.5}, ("mean", "0.5")),
    ({"mean": [127.0], "std": [60.0]}, ("from 0 to 1", "127")), ({"mean": [float("nan")], "std": [0.5]}, ("finite",)), ({"mean": [0.5], "std": [-0.5]}, ("positive std",)),
    ({"classes": "abc"}, ("names in order", "'abc'")), ({"classes": [1, 2, 3]}, ("names in order", "[1, 2, 3]")), ({"classes": 3}, ("names in order",)),
    ({"like": pairs()}, ("like", "training Images", "list")), ({"range": (1, 0)}, ("range=(low, high)",)), ({"range": 5}, ("range",)), ({"range": (0, 9)}, ("outside range=[0, 9]",)),
    ({"like": toy_images(3, shape=(3, 4, 4))}, ("images have 1 channel, the training images 3",)),
])
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        Images.from_dataset(pairs(), **options)


def test_a_stated_range() -> None:
    assert torch.equal(Images.from_dataset((X.float() * 16 - 5, Y), range=(-5, 4075)).pixels, X)  # type: ignore[arg-type]
    assert torch.equal(Images.from_dataset((X.int(), Y), range=(0, 255)).pixels, X)  # type: ignore[arg-type]


def test_arrays_of_names_and_numbers_are_settings_too() -> None:
    images = Images.from_dataset(pairs(), mean=np.array([0.5]), std=torch.tensor([0.25]), classes=None)
    assert (images.mean, images.std) == ((0.5,), (0.25,))


# --- images that stay in the dataset ----------------------------------------------------------------------------------


class Photos:
    """Pictures of several sizes, which count how often they are read."""

    classes = ("cat", "dog")

    def __init__(self, sizes: tuple[int, ...] = (9, 12, 20, 9)) -> None:
        self.sizes, self.read = sizes, 0

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        self.read += 1
        side = self.sizes[row]
        pixels = np.random.default_rng(row).integers(0, 256, (side, side + row, 3), dtype=np.uint8)
        return Image.fromarray(pixels), row % 2


def test_images_that_stay_are_those_in_memory() -> None:
    here, there = (Images.from_dataset(Photos(), size=8, lazy=lazy) for lazy in (False, True))
    assert isinstance(there.pixels, Lazy)
    assert there.slow
    assert (here.shape, here.mean, here.std, here.classes) == (there.shape, there.mean, there.std, there.classes)
    rows = torch.tensor([3, 0, 2])
    assert torch.equal(here.batch(rows).x, there.batch(rows).x)
    assert torch.equal(here.batch(rows).y, there.batch(rows).y)
    assert here.hashes == there.hashes


def test_images_that_stay_are_read_when_they_are_drawn() -> None:
    photos = Photos()
    images = Images.from_dataset(photos, size=8, lazy=True, mean=[0.5] * 3, std=[0.25] * 3)
    assert photos.read == 4
    assert images.fingerprint == Images.from_dataset(Photos(), size=8, lazy=True, mean=[0.5] * 3, std=[0.25] * 3).fingerprint
    assert images.subset(torch.tensor([1, 2])).fingerprint != images.subset(torch.tensor([2, 1])).fingerprint
    assert photos.read == 4
    images.batch(torch.tensor([2]))
    assert photos.read == 5


def test_images_that_stay_must_stay_the_same() -> None:
    pictures = [(np.zeros((8, 8), np.uint8), row % 2) for row in range(4)]
    images = Images.from_dataset(pictures, lazy=True)
    pictures[2] = (np.zeros((9, 8), np.uint8), 0)
    with input_error("[2] has shape (9, 8, 1)", "it had (8, 8, 1)", "the same images again"):
        images.batch(torch.tensor([2]))


def test_sizes_differ_or_make_no_sense() -> None:
    with input_error("[1] has shape (12, 13, 3)", "size=64"):
        Images.from_dataset(Photos())
    for wrong in (0, -3, 2.5, True, "8", 10**6):
        with input_error("expected size, the side in pixels"):
            Images.from_dataset(Photos(), size=wrong)


def test_a_set_is_distilled_from_images_that_stay(tmp_path: Path) -> None:
    train = tiny.splits().train
    pairs = TensorDataset(train.pixels[:200], train.targets[:200])  # type: ignore[index]
    one, two = (ds.distill(tiny.run(), Images.from_dataset(pairs, lazy=lazy), tmp_path / str(lazy)) for lazy in (True, False))
    assert torch.equal(one.batch(torch.arange(10)).x, two.batch(torch.arange(10)).x)
