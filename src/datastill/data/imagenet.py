"""ImageNet-1K, or a part of its classes, decoded when drawn."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from datastill.data import _image_files as files
from datastill.data.source import Arrays, Source
from datastill.errors import InputError

SIDE = 224
GET = ("get ILSVRC2012 from https://image-net.org/download (after registration) and unpack it into "
       "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or set data.path to a folder that holds these two")


class ImageNet(Source):
    """Photographs of 1,000 classes (Russakovsky et al. 2015): 1,281,167 for training, 50,000 of val/ for testing.

    train/<wnid>/*.JPEG and val/<wnid>/*.JPEG in ``<root>/imagenet`` or ``data.path``; a part of the classes will do.
    They are called by their folders (wnids), in alphabetical order. The shorter side is resized to ``data.size`` (224
    unless given) and the middle is cut out. Nothing is decoded before it is drawn, and nothing is kept: a damaged file
    shows when it is drawn, and the fingerprint is of the names and sizes of the files.
    """

    mean: ClassVar[tuple[float, ...]] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...]] = (0.229, 0.224, 0.225)

    def read(self, place: Path, size: int | None, channels: int | None) -> Arrays:
        folder = place / "imagenet" if (place / "imagenet").is_dir() else place
        for split in ("train", "val"):
            if not (folder / split).is_dir():
                looked = folder / split if folder != place else f"{place / 'imagenet' / split} nor {place / split}"
                raise InputError(f"dataset imagenet: no folder {looked}; {GET}")
        side, channels = size or SIDE, channels or 3
        classes = files.class_folders(folder / "train", folder / "val")
        train, test = (_split(folder / split, classes, side, channels) for split in ("train", "val"))
        # of gray images the mean of the luma, and the mean of the three deviations: nothing has to be read for them
        mean, std = (self.mean, self.std) if channels == 3 else ((0.459,), (0.226,))
        return Arrays(train, test, tuple(classes), mean, std)


def _split(folder: Path, classes: list[str], side: int, channels: int) -> tuple[files.LazyFiles, np.ndarray]:
    """The images of one split, not read yet, and their targets (N,). Raises InputError for a class without images."""
    names: list[str] = []
    counts = []
    for wnid in classes:
        found = files.image_names(folder / wnid)
        if not found:
            raise InputError(f"dataset imagenet: no images in {folder / wnid}; add some, or remove the class from "
                             "train and val")
        names += (f"{wnid}/{name}" for name in found)
        counts.append(len(found))

    def decode(path: Path) -> np.ndarray:
        return files.decode(path, lambda image: _square(files.convert(image, path, channels), side))

    return files.LazyFiles(folder, names, (channels, side, side), decode), np.repeat(np.arange(len(classes)), counts)


def _square(image: Image.Image, side: int) -> Image.Image:
    """The shorter side resized to ``side``, bilinear, and the middle of the longer one: torchvision's two steps."""
    from torchvision.transforms import functional

    return functional.center_crop(functional.resize(image, side), [side, side])
