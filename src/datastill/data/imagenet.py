"""ImageNet-1K, or a subset of its classes, decoded on access."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np

from datastill.data import _image_files as files
from datastill.data._fit import Fit
from datastill.data.source import Arrays, Source
from datastill.errors import InputError

SIDE = 224
GET = ("get ILSVRC2012 from https://image-net.org/download (after registration) and unpack it into "
       "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or set data.path to a folder that contains both")


class ImageNet(Source):
    """Photographs of 1,000 classes (Russakovsky et al. 2015): 1,281,167 for training, the 50,000 in val/ for testing.

    Reads train/<wnid>/*.JPEG and val/<wnid>/*.JPEG in ``<root>/imagenet`` or ``data.path``; a subset of the classes is
    enough. Classes are named after their folders (wnids), in alphabetical order. Images are brought to ``data.size``
    (default 224) as ``data.fit`` says: by default the shorter side is resized to 224 itself, not to 256, then the center is
    cropped. Images are decoded on access and not cached, so a damaged file is noticed only then; the fingerprint is
    computed from the names and sizes of the files.
    """

    fits: ClassVar[bool] = True
    mean: ClassVar[tuple[float, ...]] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...]] = (0.229, 0.224, 0.225)

    def read(self, place: Path, size: int | None, channels: int | None, fit: Fit = "crop",
             limits: tuple[float, float] | None = None) -> Arrays:
        folder = place / "imagenet" if (place / "imagenet").is_dir() else place
        for split in ("train", "val"):
            if not (folder / split).is_dir():
                looked = folder / split if folder != place else f"{place / 'imagenet' / split} nor {place / split}"
                raise InputError(f"dataset imagenet: no folder {looked}; {GET}")
        side, channels = size or SIDE, channels or 3
        classes = files.class_folders(folder / "train", folder / "val")
        left_out: Counter[str] = Counter()
        train, test = (_split(folder / split, classes, side, channels, fit, left_out) for split in ("train", "val"))
        files.say_left_out(folder, left_out)
        # for gray images: the mean of the luma and the mean of the three deviations, so that nothing has to be read
        mean, std = (self.mean, self.std) if channels == 3 else ((0.459,), (0.226,))
        return Arrays(train, test, tuple(classes), mean, std)


def _split(folder: Path, classes: list[str], side: int, channels: int, fit: Fit,
           left_out: Counter[str]) -> tuple[files.LazyFiles, np.ndarray]:
    """The images of one split, not yet read, and their targets (N,). Raises InputError for a class without images."""
    names: list[str] = []
    counts = []
    for wnid in classes:
        found = files.image_names(folder / wnid, left_out)
        if not found:
            raise InputError(f"dataset imagenet: no images in {folder / wnid}; add some, or remove the class from "
                             "train and val")
        names += (f"{wnid}/{name}" for name in found)
        counts.append(len(found))

    pixels = files.LazyFiles(folder, names, channels, side, fit)
    return pixels, np.repeat(np.arange(len(classes)), counts)
