"""Scores of a dataset's images that somebody else published, from a file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from datastill.data import Images
from datastill.errors import InputError
from datastill.files import reason
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
    try:
        there = path.is_file()
    except OSError as error:
        raise InputError(f"{path}: {reason(error)}") from None
    if not there:
        raise InputError(f"{path} is a folder; expected a file of scores" if path.is_dir() else f"no file {path}")
    scores, labels = _read_table(path)
    if labels is not None and len(labels) != len(scores):
        raise InputError(f"{path} has {counted(len(scores), 'score')} and {counted(len(labels), 'label')}; expected as many")
    if len(scores) != len(images):
        raise InputError(f"{path} has {counted(len(scores), 'score')}; the data have "
                         f"{counted(len(images), 'training image')}, and need one for each, in their order (hold out "
                         "nothing, data.validation=0, and leave out no class)")
    if not np.isfinite(scores).all():
        raise InputError(f"{path}: the score of image {int((~np.isfinite(scores)).argmax())} is not a finite number")
    if len(np.unique(scores)) < 2:
        raise InputError(f"{path}: all scores are {scores[0]:g}, so there is nothing to compare; expected one of each image")
    if labels is not None:
        names = {name: number for number, name in enumerate(images.classes)}
        mine = images.targets.cpu().numpy()
        theirs = np.array([_class_number(one, names) for one in labels])
        if (wrong := theirs != mine).any():
            first = int(wrong.argmax())
            here = f"{images.classes[mine[first]]!r} ({mine[first]})"
            raise InputError(f"{path} is in another order than the data: image {first} is {labels[first]!r} there, {here} "
                             f"here; {int(wrong.sum())} of {len(mine)} differ")
    return Public(scores, labels is not None)


def _class_number(label: Any, names: dict[str, int]) -> int:
    """The class that a label stands for, by its name or its number; -1 if there is none."""
    text = label.decode(errors="replace") if isinstance(label, bytes) else str(label).strip()
    if text in names:
        return names[text]
    try:
        number = float(text)
    except ValueError:
        return -1
    return int(number) if number.is_integer() and 0 <= number < len(names) else -1


def _read_table(path: Path) -> tuple[np.ndarray, list[Any] | None]:
    """Scores and labels, if there are any."""
    try:
        if path.suffix.lower() == ".npz":
            return _read_arrays(path)
        if path.suffix.lower() == ".npy":
            return _numbers(np.load(path, allow_pickle=False), path), None
        if path.suffix.lower() in (".csv", ".txt"):
            return _read_lines(path)
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib, csv and numpy's own parser raise many kinds for damaged files
        raise InputError(f"{path} cannot be read as scores: {said(error)}") from None
    raise InputError(f"{path}: expected scores as .npy, .npz, .csv or .txt (pickles are not opened)")


def _read_arrays(path: Path) -> tuple[np.ndarray, list[Any] | None]:
    content = np.load(path, allow_pickle=False)
    if not hasattr(content, "files"):
        raise InputError(f"{path} is a single array; rename it to .npy")
    with content:
        names = {name.lower(): name for name in content.files}
        found = [names[name] for name in ("scores", "score") if name in names]
        if len(found) != 1:
            raise InputError(f'{path}: expected one array "scores", it has {", ".join(content.files) or "none"}')
        beside = [content[names[name]] for name in ("labels", "label", "targets") if name in names]
        if beside and beside[0].ndim > 1:
            raise InputError(f"{path}: labels have shape {beside[0].shape}; expected a list, one for each image")
        return _numbers(content[found[0]], path), beside[0].ravel().tolist() if beside else None


def _numbers(array: Any, path: Path) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iufb":
        raise InputError(f"{path} holds {getattr(array, 'dtype', type(array).__name__)}; expected a list of numbers")
    if array.ndim != 1:
        raise InputError(f"{path} holds an array of shape {array.shape}; expected a list, a number for each image")
    found: np.ndarray = array.astype(float)
    return found


def _read_lines(path: Path) -> tuple[np.ndarray, list[Any] | None]:
    with path.open(newline="", encoding="utf-8-sig") as text:
        reader = csv.reader(text)
        lines = [(reader.line_num, line) for line in reader if line]
    if not lines:
        raise InputError(f"{path} is empty")
    head = [one.strip().lower() for one in lines[0][1]]
    column, place = (_column(path, head, names) for names in (("score", "scores"), ("label", "labels", "class")))
    if column is None and len(head) > 1:
        raise InputError(f"{path}: expected a column score (and label), got {shown(lines[0][1])}")
    if short := next((number for number, line in lines if len(line) != len(head)), None):
        raise InputError(f"{path}, line {short}: expected {counted(len(head), 'column')}")
    rows = lines if column is None else lines[1:]
    return (np.array([float(line[column or 0]) for _, line in rows]),
            None if place is None else [line[place].strip() for _, line in rows])


def _column(path: Path, head: list[str], names: tuple[str, ...]) -> int | None:
    """Which column has one of these names, None if there is none. Raises InputError if there are several."""
    there = [number for number, name in enumerate(head) if name in names]
    if len(there) > 1:
        raise InputError(f"{path} has several columns {head[there[0]]}; expected one")
    return there[0] if there else None
