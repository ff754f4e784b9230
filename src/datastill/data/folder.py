"""Your own images in a folder tree, one folder per class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np

from datastill.data import _image_files as files
from datastill.data._fit import Fit
from datastill.data._layout import TEST, TRAIN, VALIDATION, Split, check_no_split_inside, layout
from datastill.data._reader import Limits, Reader
from datastill.data.source import Arrays, Source
from datastill.errors import InputError


class Folder(Source):
    """Images in ``train/<class>/...`` with ``test/<class>/...``, or simply ``<class>/...``, or ``<class>/train/...``.

    Splits are known by the usual names in any case: train, Training, train_set, seg_train; test, Testing; val, valid,
    validation, dev, eval. With both test and validation folders, the latter's images are used for validation, unless
    ``data.validation`` holds out some of the training images; a validation folder alone contains the test images. Without
    either, a part of the images is held out for testing (``data.test``).

    Classes are the folder names in alphabetical order; links are followed. Every format that Pillow opens as a picture is
    read, of several frames the first; what is left out is said before the work, and on the report page. Images are turned
    upright as their EXIF data say, and what is transparent is shown over white. Images of several sizes need ``data.size``,
    those of more than 8 bits ``data.range``; other files that are neither gray nor RGB, and folders that mix the two, need
    ``data.channels``. Datasets that decode to more than 4 GiB are memory-mapped from a cache folder (``DATASTILL_CACHE``, by
    default in the system's temporary folder).

    nested: the folders are classes, although they contain only folders of equal names, which could be the classes.
    """

    fits: ClassVar[bool] = True
    yours: ClassVar[bool] = True

    nested: bool = False

    def read(self, place: Path, size: int | None, channels: int | None, fit: Fit = "crop",
             limits: Limits | None = None) -> Arrays:
        if not place.is_dir():
            file = "; for a .npz or .csv file, set data.source to npz or csv" if place.is_file() else ""
            raise InputError(f"dataset folder: no folder {place}; set data.path to a folder with one subfolder per class"
                             f"{file}")
        left_out: Counter[str] = Counter()
        found = layout(place, self.nested, left_out)
        kinds = (TRAIN, TEST, VALIDATION)
        listed = [_listed(split, kind, left_out) for split, kind in zip(found, kinds, strict=True) if split]
        _count_outside({place, *(split.folder for split in found if split)}, left_out)
        files.say_left_out(place, left_out)
        reader = Reader(size, channels, fit, limits)
        pairs = [(reader.read(paths), targets) for paths, targets in listed if paths]
        names = [[str(path.relative_to(place)) for path in paths] for paths, _ in listed if paths]
        return Arrays(pairs[0], pairs[1] if len(pairs) > 1 else None, tuple(found.train.classes), mapped=reader.mapped,
                      validation=pairs[2] if len(pairs) > 2 else None, names=names, scaled=limits is not None)


def _listed(split: Split, kind: str, left_out: Counter[str]) -> tuple[list[Path], np.ndarray]:
    """The image files of a split and their targets (N,). Raises InputError if there are no training or test images."""
    paths: list[Path] = []
    counts = []
    for folder in split.classes.values():
        found = files.image_tree(folder, left_out)
        check_no_split_inside(folder, kind, found)
        full = [path for path in found if path.stat().st_size]
        left_out["empty files"] += len(found) - len(full)
        paths += full
        counts.append(len(full))
    if not paths and kind != VALIDATION:
        raise InputError(f"{split.folder} contains no images (looked for .png, .jpg and others that Pillow opens; left out: "
                         f"{files.kinds(left_out) or 'nothing'})")
    return paths, np.repeat(np.arange(len(counts)), counts)


def _count_outside(folders: set[Path], left_out: Counter[str]) -> None:
    """Count the files that are in no folder of a class, and the links to folders that are gone."""
    for folder in folders:
        left_out["images outside the folders of classes"] += len(files.image_names(folder, left_out))
