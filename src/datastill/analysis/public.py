"""Scores of a dataset's images that somebody else published, from a file."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from datastill.data import Images
from datastill.errors import InputError
from datastill.foreign import said
from datastill.tables import counted, shown


class Public:
    """Scores that somebody else published for all images of a dataset, in its order; ``has_labels``: it was checked."""

    def __init__(self, scores: np.ndarray, has_labels: bool) -> None:
        self.scores, self.has_labels = scores, has_labels


def read_public(path: Path, images: Images) -> Public:
    """Scores of these training images from a file: .npy (one number for each image); .npz (an array "scores", and "labels"
    to check the order by); .csv or .txt (a number in each line, or columns "score" and "label" under a header).

    Labels are class numbers in the order of the dataset, or names. Raises InputError: another length or order, no numbers.
    """
    if not path.is_file():
        raise InputError(f"no file {path}")
    scores, labels = _read_table(path)
    if labels is not None and len(labels) != len(scores):
        raise InputError(f"{path} has {counted(len(scores), 'score')} and {counted(len(labels), 'label')}; expected as many")
    if len(scores) != len(images):
        raise InputError(f"{path} has {counted(len(scores), 'score')}; the data have "
                         f"{counted(len(images), 'training image')}, and need one for each, in their order (hold out "
                         "nothing: data.validation=0)")
    if not np.isfinite(scores).all():
        raise InputError(f"{path}: the score of image {int((~np.isfinite(scores)).argmax())} is not a finite number")
    if len(np.unique(scores)) < 2:
        raise InputError(f"{path}: all scores are {scores[0]:g}, so there is nothing to compare; expected one of each image")
    if labels is not None:
        names = {name: number for number, name in enumerate(images.classes)}
        mine = images.targets.cpu().numpy()
        theirs = np.array([names.get(str(one), -1) if str(one) in names or not str(one).lstrip("-").isdigit() else int(one)
                           for one in labels])
        if (wrong := theirs != mine).any():
            first = int(wrong.argmax())
            here = f"{images.classes[mine[first]]!r} ({mine[first]})"
            raise InputError(f"{path} is in another order than the data: image {first} is {labels[first]!r} there, {here} "
                             f"here; {int(wrong.sum())} of {len(mine)} differ")
    return Public(scores, labels is not None)


def _read_table(path: Path) -> tuple[np.ndarray, list[Any] | None]:
    """Scores and labels, if there are any."""
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as content:
                names = {name.lower(): name for name in content.files}
                if not (found := [name for name in ("scores", "score") if name in names]):
                    raise InputError(f'{path} has no array "scores"; it has {", ".join(content.files) or "none"}')
                beside = [content[names[name]].ravel().tolist() for name in ("labels", "label", "targets") if name in names]
                return _numbers(content[names[found[0]]], path), beside[0] if beside else None
        if path.suffix.lower() == ".npy":
            return _numbers(np.load(path, allow_pickle=False), path), None
        if path.suffix.lower() in (".csv", ".txt"):
            return _read_lines(path)
    except (OSError, ValueError, TypeError, EOFError, csv.Error, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as scores: {said(error)}") from None
    raise InputError(f"{path}: expected scores as .npy, .npz, .csv or .txt (pickles are not opened)")


def _numbers(array: Any, path: Path) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iufb":
        raise InputError(f"{path} holds {getattr(array, 'dtype', type(array).__name__)}; expected a list of numbers")
    found: np.ndarray = array.astype(float).ravel()
    return found


def _read_lines(path: Path) -> tuple[np.ndarray, list[Any] | None]:
    with path.open(newline="", encoding="utf-8-sig") as text:
        lines = [line for line in csv.reader(text) if line]
    if not lines:
        raise InputError(f"{path} is empty")
    head = [one.strip().lower() for one in lines[0]]
    if len(head) == 1 and head[0] not in ("score", "scores"):
        return np.array([float(line[0]) for line in lines]), None
    column = next((head.index(name) for name in ("score", "scores") if name in head), None)
    if column is None:
        raise InputError(f"{path}: expected a column score (and label), got {shown(lines[0])}")
    place = next((head.index(name) for name in ("label", "labels", "class") if name in head), None)
    if short := next((number for number, line in enumerate(lines[1:], 2) if len(line) != len(head)), None):
        raise InputError(f"{path}, line {short}: expected {counted(len(head), 'column')}")
    return (np.array([float(line[column]) for line in lines[1:]]),
            None if place is None else [line[place].strip() for line in lines[1:]])
