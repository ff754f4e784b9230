"""Convert any map-style dataset of images and labels to ``Images``."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from datastill.data._fit import square
from datastill.data.images import Images, Lazy, class_names, measured, numbers
from datastill.data.source import Arrays, check_arrays, check_finite, check_split, extremes, scale
from datastill.errors import InputError
from datastill.foreign import calling, package_of, said
from datastill.late import torch
from datastill.tables import counted, shown

if TYPE_CHECKING:
    from torch import Tensor

KEYS = ({"image", "img", "pixel_values"}, {"label", "labels", "target", "fine_label"})  # of Hugging Face's datasets
EXPECTED = ("expected a map-style dataset of (image, label), such as a TensorDataset or one of torchvision's, or (images, "
            "labels)")

Limits = tuple[float, float]


class _Named(NamedTuple):
    """Class names a dataset knows, in order; ``whole``: they are of a larger dataset, so that some may not occur."""

    names: tuple[str, ...]
    whole: bool


def read(dataset: Any, classes: Any, mean: Any, std: Any, like: Any, limits: Any, size: Any, lazy: bool) -> Images:
    """See ``Images.from_dataset``."""
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 8192):
        raise InputError("from_dataset: expected size, the side in pixels, a whole number from 1 to 8192, got "
                         f"{shown(size)}")
    given = () if classes is None or (isinstance(classes, (list, tuple)) and not classes) else class_names(classes)
    mean, std = (() if value is None else numbers(value, "mean and std: expected one per channel") for value in (mean, std))
    if bool(mean) != bool(std):
        raise InputError(f"from_dataset: got only {'mean' if mean else 'std'}; give both mean and std, or neither")
    if like is not None and not all(hasattr(like, what) for what in ("classes", "mean", "std")):
        raise InputError(f"from_dataset: expected the training Images as like, got {type(like).__name__}; "
                         "like=Images.from_dataset(...)")
    if limits is not None:
        limits = numbers(limits, wanted := "from_dataset: expected range=(low, high) with low below high")
        if len(limits) != 2 or not limits[0] < limits[1]:
            raise InputError(f"{wanted}, got {limits}")
    name = "arrays" if _are_arrays(dataset) else type(dataset).__name__
    item, count = _items(dataset)
    items = _Items(item, name, package_of(type(dataset)), limits, size)
    taken, labels = _read_all(items, count, lazy)
    known = _known(dataset) if not given else _Named((), False)
    if like is not None:
        labels = _as_in(like.classes, known, labels, name) if known.names else labels
        given, mean, std = given or like.classes, mean or like.mean, std or like.std
    elif known.names and known.whole:
        occurring = _of(known, labels, name)
        labels = _as_in(occurring, known, labels, name)
        given = occurring
    names = given or known.names or _numbers(labels, name)
    shape = (count, *taken.shape)
    like_them: Any = np.broadcast_to(np.uint8(0), shape)  # of their form; the values are checked
    if like is None:
        check_arrays(Arrays((like_them, labels), None, names), name)
    else:  # images to score on may lack a class
        check_split(like_them, labels, "test", names, name)
    if mean and len(mean) != shape[3] and like is not None:
        raise InputError(f"{name}: images have {counted(shape[3], 'channel')}, the training images {len(mean)}")
    stored: Any
    if taken.stay:
        stored = LazyItems(items, shape, taken.hashes)
    else:
        stacked = np.stack(taken.images) if taken.images else np.zeros(shape, np.uint8)
        stored = torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)))
    images = Images(stored, torch.from_numpy(labels), names, mean, std, origin=name)
    return images if mean else measured(images)


def _items(dataset: Any) -> tuple[Callable[[int], Any], int]:
    """Access to the items (image, label) of a dataset, and their number. Raises InputError."""
    name = type(dataset).__name__
    if isinstance(dataset, (str, bytes, PurePath)):
        raise InputError(f"from_dataset: {EXPECTED}, got {str(dataset)!r}; load files with "
                         "Data(source='folder', path=...).load('.')")
    if isinstance(dataset, tuple) and any(isinstance(part, Images) for part in dataset):
        raise InputError(f"from_dataset: got {name}, several splits; pass one of them, as in splits.train or splits.test")
    if isinstance(dataset, Mapping):
        raise InputError(f"from_dataset: got {name} with {', '.join(map(repr, list(dataset)[:5]))}; pass one split or "
                         "(images, labels)" if dataset else f"from_dataset: {EXPECTED}, got an empty {name}")
    if _are_arrays(dataset):
        return _zipped(*dataset)
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        hint = "; pass its dataset" if hasattr(dataset, "dataset") else \
            "; these are read already, change them with dataclasses.replace" if isinstance(dataset, Images) else ""
        raise InputError(f"from_dataset: {EXPECTED}, got {name}{hint}")
    with calling(f"from_dataset: {EXPECTED}; {name}.__len__", package_of(type(dataset))):
        return dataset.__getitem__, len(dataset)


def _are_arrays(dataset: Any) -> bool:
    """Whether it is (images, labels)."""
    return isinstance(dataset, (tuple, list)) and len(dataset) == 2 and all(
        isinstance(part, (np.ndarray, torch.Tensor)) for part in dataset)


def _zipped(images: Any, labels: Any) -> tuple[Callable[[int], Any], int]:
    if images.ndim not in (3, 4) or labels.ndim not in (1, 2) or len(images) != len(labels):
        raise InputError("from_dataset: expected (images, labels) with images (N, H, W), arrays (N, H, W, C) or tensors "
                         f"(N, C, H, W), and labels (N,), got shapes {tuple(images.shape)} and {tuple(labels.shape)}")
    return lambda row: (images[row], labels[row]), len(images)


class _Items(NamedTuple):
    """How items of a dataset are read as images (H, W, C) uint8 and labels. name, package: of the dataset's class."""

    item: Callable[[int], Any]
    name: str
    package: str
    limits: Limits | None
    size: int | None

    def read(self, row: int) -> tuple[np.ndarray, int]:
        """One image and its label. Raises InputError."""
        with calling(f"{self.name}[{row}]", self.package):
            found = self.item(row)
        image, label = _pair(found, f"{self.name}[{row}]", self.limits)
        if self.size is not None:
            stored = square(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None], self.size, "crop")
            image = stored[0].numpy().transpose(1, 2, 0)
        return image, label


class _Taken:
    """What is taken of images (H, W, C) that are read one after the other: they themselves, or their hashes if they ``stay``
    in their dataset; and their shape, (4, 4, 1) before the first."""

    def __init__(self, stay: bool) -> None:
        self.stay, self.shape = stay, (4, 4, 1)
        self.images: list[np.ndarray] = []
        self.hashes: list[bytes] = []

    def add(self, image: np.ndarray) -> None:
        """One more, of the same shape."""
        self.shape = image.shape
        if self.stay:
            self.hashes.append(hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest())
        else:
            self.images.append(image)


class LazyItems(Lazy):
    """Images that are read from a dataset in Python when they are drawn, known by the hashes of what was read first."""

    def __init__(self, items: _Items, shape: tuple[int, ...], hashes: Sequence[bytes]) -> None:
        self.items, self.hashes = items, hashes
        count, height, width, channels = shape
        self.shape = (count, channels, height, width)

    def __getitem__(self, indices: Tensor) -> Tensor:
        _, channels, height, width = self.shape
        found = np.empty((len(indices), channels, height, width), dtype=np.uint8)
        for place, row in enumerate(indices.tolist()):
            image, _ = self.items.read(row)
            if image.shape != (height, width, channels):
                raise InputError(f"{self.items.name}[{row}] has shape {image.shape} (H, W, C); it had "
                                 f"{(height, width, channels)} when it was read first; a dataset that is read lazily must "
                                 "give the same images again")
            found[place] = image.transpose(2, 0, 1)
        return torch.from_numpy(found)

    def identity(self, indices: Tensor) -> bytes:
        return b"".join(self.hashes[row] for row in indices.tolist())


def _read_all(items: _Items, count: int, lazy: bool) -> tuple[_Taken, np.ndarray]:
    """The images, uint8 of one size, and their labels (N,)."""
    taken = _Taken(stay=lazy)
    labels = np.zeros(count, dtype=np.int64)
    for row in range(count):
        image, label = items.read(row)
        if not 0 <= label < 2**31:
            raise InputError(f"{items.name}[{row}] has the label {label}; expected 0 to K - 1 for K classes")
        if row and image.shape != taken.shape:
            raise InputError(f"{items.name}[{row}] has shape {image.shape} (H, W, C), {items.name}[0] has "
                             f"{taken.shape}; give the size they are to have, as in size=64, or resize them to one "
                             "size in the dataset's transform")
        taken.add(image)
        labels[row] = label
    return taken, labels


def _known(dataset: Any) -> _Named:
    """The class names that a dataset, or the larger one it is a part of, knows. Raises InputError if its parts differ."""
    if isinstance(own := getattr(dataset, "classes", None), (list, tuple, np.ndarray)):
        return _Named(tuple(map(str, own)), False)
    features = getattr(dataset, "features", None)  # of Hugging Face's datasets
    if isinstance(features, Mapping):
        listed = [value.names for key, value in features.items() if key in KEYS[1] and hasattr(value, "names")]
        return _Named(tuple(map(str, listed[0] or ())) if listed else (), True)
    parts = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    found = {_known(part).names for part in parts if part is not None} - {()}
    if len(found) > 1:
        raise InputError(f"from_dataset: the parts of {type(dataset).__name__} have different classes: "
                         f"{' and '.join(str(names[:6]) for names in sorted(found))}; a label would mean two things")
    return _Named(found.pop() if found else (), True)


def _of(known: _Named, labels: np.ndarray, name: str) -> tuple[str, ...]:
    """The names of the classes that occur, in order. Raises InputError."""
    if len(labels) and labels.max() >= len(known.names):
        raise InputError(f"{name}: labels go up to {labels.max()}, but it names only {counted(len(known.names), 'class')}")
    return tuple(known.names[label] for label in np.unique(labels))


def _as_in(classes: tuple[str, ...], known: _Named, labels: np.ndarray, name: str) -> np.ndarray:
    """The labels of a dataset that names its classes, renumbered for ``classes``. Raises InputError."""
    own = _of(known, labels, name) if known.whole else known.names
    if not (set(own) <= set(classes) if known.whole else own == classes):  # a label would silently mean another class
        more, fewer = ([one for one in a if one not in b] for a, b in ((own, classes), (classes, own)))
        what = f"it also has {more[:6]}" if more else f"it lacks {fewer[:6]}" if fewer else "they are in another order"
        raise InputError(f"from_dataset: the classes of {name} are {own[:6]}, expected those of the training images, in "
                         f"their order, {classes[:6]}: {what}; reorder its labels, or load it with the same classes")
    if known.names == classes:
        return labels
    return np.array([classes.index(one) if one in classes else -1 for one in known.names], dtype=np.int64)[labels]


def _numbers(labels: np.ndarray, name: str) -> tuple[str, ...]:
    """Labels as names. Raises InputError before it makes more names than there are images."""
    if (highest := int(labels.max(initial=-1))) > max(1, len(labels)):
        raise InputError(f"{name}: labels go up to {highest} for only {counted(len(labels), 'image')}; expected 0 to K - 1 "
                         "for K classes")
    return tuple(map(str, range(highest + 1)))


def _pair(item: Any, what: str, limits: Limits | None) -> tuple[np.ndarray, int]:
    """One item as (H, W, C) uint8 and an integer label."""
    wanted = f"{what} is not a pair of an image and an integer label"
    try:
        image, label = _values(item, what) if isinstance(item, Mapping) else item
    except (TypeError, ValueError):
        raise InputError(f"{wanted}: got {shown(item)}") from None
    try:
        return _image(image, what, limits), operator.index(label.item() if hasattr(label, "item") else label)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor with several elements
        several = "; several numbers that are one-hot become one by argmax" if np.ndim(label) else ""
        raise InputError(f"{wanted}: its label is {shown(label)}{several}") from None


def _values(item: Mapping[str, Any], what: str) -> Sequence[Any]:
    """Image and label of a dictionary."""
    found = [[item[key] for key in item if key in keys] for keys in KEYS]
    if any(len(values) != 1 for values in found):
        raise InputError(f"{what} has the keys {', '.join(map(repr, item))}; expected one image (image, img) and one label "
                         "(label); pass a dataset of (image, label)")
    return [values[0] for values in found]


def _image(image: Any, what: str, limits: Limits | None) -> np.ndarray:
    """An image as (H, W, C) uint8. Floats are from 0 to 1 unless ``limits`` say otherwise."""
    if isinstance(image, Image.Image) and image.mode not in ("L", "RGB", *(("I;16", "I", "F") if limits else ())):
        raise InputError(f"{what} is a picture of mode {image.mode}; expected 8-bit gray (L) or RGB: convert it in the "
                         "dataset's transform, as in image.convert('RGB')")
    wanted = f"{what}: expected an image of numbers, an array (H, W) or (H, W, C) or a tensor (C, H, W), got {shown(image)}"
    try:
        array = _array(image)
    except Exception as error:  # the image is the user's
        raise InputError(f"{wanted}: {said(error)}") from None
    if array.ndim != 3 or array.dtype.kind not in "iuf":
        raise InputError(wanted)
    if limits is not None:
        return scale(array, limits, what, "range")
    if array.dtype == np.uint8:
        return array
    check_finite(array, what)
    low, high = extremes(array)
    if array.dtype.kind != "f" or low < 0 or high > 1:
        raise InputError(f"{what}: {array.dtype} pixels range from {low:.3g} to {high:.3g}; expected 0 to 1 (or uint8): "
                         "remove normalization from the dataset's transform, or state the range of all images, as in "
                         "range=(low, high)")
    return scale(array, (0.0, 1.0), what, "range")


def _array(image: Any) -> np.ndarray:
    """An image as an array (H, W, C)."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = image.float() if image.dtype in (torch.float16, torch.bfloat16) else image
        if image.dim() in (2, 3):
            image = (image[None] if image.dim() == 2 else image).permute(1, 2, 0)
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
