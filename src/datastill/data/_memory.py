"""Convert any map-style dataset of images and labels to ``Images``."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import numpy as np

from datastill.data.images import Images, mean_and_std
from datastill.data.source import Arrays, check_arrays, check_split
from datastill.errors import InputError
from datastill.late import torch


def read(dataset: Any, classes: tuple[str, ...], mean: tuple[float, ...], std: tuple[float, ...],
         like: Images | None) -> Images:
    """See ``Images.from_dataset``."""
    name = type(dataset).__name__
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise InputError(f"from_dataset: expected a map-style dataset of (image, label), got {name}")
    count = len(dataset)
    pixels: list[np.ndarray] = []
    labels = np.zeros(count, dtype=np.int64)
    for row in range(count):
        image, labels[row] = _pair(dataset[row], f"{name}[{row}]")
        if pixels and image.shape != pixels[0].shape:
            raise InputError(f"{name}[{row}] has shape {image.shape} (H, W, C), {name}[0] has {pixels[0].shape}; resize "
                             "them to one size in the dataset's transform")
        pixels.append(image)
    if like is not None:
        own = tuple(map(str, getattr(dataset, "classes", ())))
        if own and not classes and own != like.classes:  # a label would silently mean another class
            raise InputError(f"from_dataset: the classes of {name} are {own[:6]}, expected those of the training images, in "
                             f"their order, {like.classes[:6]}; reorder its labels, or load it with the same classes")
        classes, mean, std = classes or like.classes, mean or like.mean, std or like.std
    names = classes or tuple(map(str, getattr(dataset, "classes", ()))) or tuple(map(str, range(labels.max(initial=-1) + 1)))
    stacked = np.stack(pixels) if pixels else np.zeros((0, 4, 4, 1), np.uint8)
    if like is None:
        check_arrays(Arrays((stacked, labels), None, names), name)
    else:  # images to score on may lack a class
        check_split(stacked, labels, "test", names, name)
    stored = np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))
    images = Images(torch.from_numpy(stored), torch.from_numpy(labels), names, (), (), origin=name)
    if not mean or not std:
        mean, std = mean_and_std(images)
    if len(mean) != images.shape[0] or len(std) != images.shape[0] or min(std) <= 0:
        raise InputError(f"from_dataset: expected a mean and a positive std for each of {images.shape[0]} channels, got "
                         f"mean {mean} and std {std}")
    return replace(images, mean=mean, std=std)


def _pair(item: Any, what: str) -> tuple[np.ndarray, int]:
    """One item as (H, W, C) uint8 and an integer label."""
    try:
        image, label = item
        label = operator.index(label.item() if hasattr(label, "item") else label)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor with several elements
        raise InputError(f"{what} is not a pair of an image and an integer label") from None
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        if image.is_floating_point():
            if not bool(((image >= 0) & (image <= 1)).all()):
                raise InputError(f"{what}: pixels range from {float(image.min()):.3g} to {float(image.max()):.3g}; expected "
                                 "0 to 1; remove normalization from the dataset's transform")
            image = (image * 255).round().byte()
        if image.dim() in (2, 3):
            image = (image[None] if image.dim() == 2 else image).permute(1, 2, 0)
        image = image.numpy()
    array = np.asarray(image)
    return (array[..., None] if array.ndim == 2 else array), label
