"""Your own images, with their labels in a table of comma-separated values."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from datastill.data import _image_files as files
from datastill.data._caveats import say
from datastill.data._fit import Fit
from datastill.data._reader import Limits, Reader
from datastill.data.source import SPLITS, Arrays, Pair, Source, for_folder, named
from datastill.errors import InputError
from datastill.tables import counted

USUAL = {"file": ("file", "filename", "file_name", "filepath", "path", "image", "image_path", "image_id", "img"),
         "label": ("label", "labels", "class", "class_name", "target", "category"), "split": ("split", "subset", "set")}
SEPARATORS = ",;\t"

Row = tuple[str, str, str, str]  # file, label, split, group


class Csv(Source):
    """A .csv file at ``data.path`` with a column of image files and one of labels, and optionally one of splits: train,
    val, test. The first line names the columns; values are separated by commas, semicolons or tabs.

    Labels are the names of the classes, in alphabetical order, numbers by value. Without rows for test, those for val are
    the test split; without a column of splits, a part of the images is held out for testing (``data.test``). Files are
    read as the source ``folder`` reads them, and so are .npy files, (H, W) or (H, W, C), uint8 or other numbers, which need
    ``data.range``. Rows that repeat another one count once.

    file, label, split: the columns, by default those with a usual name (file, filename, path, image, image_id, ...; label,
    class, target, category; split). folder: the folder that file names are relative to, itself relative to that of the .csv
    file, the default. A name without suffix is that of the one image file with that name.
    group: a column that says what belongs together, such as a patient or a lesion: images of equal value stay on one side of
        every split that is made (``data.test``, ``data.validation``, and that of teachers trained here).
    """

    fits: ClassVar[bool] = True
    yours: ClassVar[bool] = True

    file: str = ""
    label: str = ""
    split: str = ""
    folder: str = ""
    group: str = ""

    def read(self, place: Path, size: int | None, channels: int | None, fit: Fit = "crop",
             limits: Limits | None = None) -> Arrays:
        if not place.is_file():
            raise InputError(f"dataset csv: no file {place}; set data.path to a .csv file with a column of image files and "
                             f"one of labels{for_folder(place)}")
        rows = _distinct(self._rows(place), place)
        home = place.parent / os.path.expanduser(self.folder)  # noqa: PTH111 - leaves an unknown user as it is
        paths = dict(zip(rows, _existing([row[0] for row in rows], home, place), strict=True))
        reader, pairs = Reader(size, channels, fit, limits), dict[str, Pair]()
        for split in SPLITS:
            if chosen := [row for row in rows if row[2] == split]:
                pairs[split] = reader.read([paths[row] for row in chosen]), np.array([row[1] for row in chosen])
        if "training" not in pairs:
            raise InputError(f"{place} has no rows for training")
        groups = self._groups(rows, place) if self.group else None
        return replace(named(pairs, (), str(place)), mapped=reader.mapped, scaled=limits is not None, groups=groups)

    def _groups(self, rows: list[Row], place: Path) -> np.ndarray:
        """The number of the group of each training image. A split that the table makes may divide groups; that is said."""
        apart = {row[3] for row in rows if row[2] != "training"} & {row[3] for row in rows if row[2] == "training"}
        if apart:
            say(place, f"{counted(len(apart), 'value')} of {self.group} in training rows and in others ({min(apart)!r}), so "
                       "that scores may be too high; correct the column of splits")
        return np.unique([row[3] for row in rows if row[2] == "training"], return_inverse=True)[1].astype(np.int64)

    def _rows(self, place: Path) -> list[Row]:
        """File, label, split and group of every row. Raises InputError."""
        try:
            with place.open(encoding="utf-8-sig", newline="") as stream:
                header = stream.readline()
                separator = max(SEPARATORS, key=lambda one: len(next(csv.reader([header], delimiter=one), [])))
                stream.seek(0)
                table = [line for line in csv.reader(stream, delimiter=separator, strict=True) if any(line)]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{place} cannot be read as .csv in UTF-8: {error}") from None
        columns, lines = [name.strip() for name in table[0]] if table else [], table[1:]
        for number, line in enumerate(lines, 2):
            if len(line) != len(columns):
                raise InputError(f"{place}: row {number} has {counted(len(line), 'value')}, the first line names "
                                 f"{counted(len(columns), 'column')}")
        found = [self._column(what, columns, lines, place) for what in ("file", "label", "split", "group")]
        if not lines:
            raise InputError(f"{place} has no rows")
        usual = ("", "", "train", "")  # without such a column
        rows = [_row([else_ if at is None else line[at].strip() for at, else_ in zip(found, usual, strict=True)],
                     f"{place}: row {number}") for number, line in enumerate(lines, 2)]
        if self.group and (lacking := [number for number, row in enumerate(rows, 2) if not row[3]]):
            raise InputError(f"{place}: row {lacking[0]} has no {self.group}; expected one in every row, or leave out group")
        _check_single({row[1] for row in rows}, place)
        return rows

    def _column(self, what: str, columns: list[str], lines: list[list[str]], place: Path) -> int | None:
        """The number of a column: the one that was asked for, else one with a usual name. Raises InputError."""
        wanted, shown = getattr(self, what), ", ".join(map(repr, columns[:30])) or "none"
        names = [wanted] if wanted else USUAL.get(what, ())
        found = [at for at, name in enumerate(columns) if (name if wanted else name.lower().replace(" ", "_")) in names]
        if len(found) == 1 or (not found and what in ("split", "group") and not wanted):
            return found[0] if found else None
        if what == "label" and not found and not wanted and _are_one_hot(lines, len(columns)):
            raise InputError(f"{place} has a column per class (one-hot or multi-label: {shown}); expected one column with "
                             "the name of the class")
        problem = f"{len(found)} columns that may be" if found else f"no column {wanted!r} for" if wanted else \
            "no column with a usual name for"
        raise InputError(f"{place} has {problem} the {what}; its columns are {shown}; name them in data.source, as in "
                         "csv:file=image,label=diagnosis,split=fold")


def _row(values: list[str], where: str) -> Row:
    """File, label, split and group of a row. Raises InputError."""
    file, label, word, group = values
    if not file or not label:
        raise InputError(f"{where} has no {'label' if file else 'file'}; expected both in every row")
    split = next((split for split, words in SPLITS.items() if word.lower() in words), None)
    if split is None:
        raise InputError(f"{where} has the split {word!r}; expected train, val or test")
    return file, label, split, group


def _check_single(labels: set[str], place: Path) -> None:
    """Raises InputError if some labels are lists of labels: ``a|b``, or ``a,b`` beside ``a`` and ``b``."""
    for label in sorted(labels):
        parts = {part.strip() for part in re.split(r"[|,;]", label)}
        if len(parts) > 1 and ("|" in label or parts <= labels):
            raise InputError(f"{place} has several labels in one value, {label!r}; multi-label data are not supported")


def _are_one_hot(lines: list[list[str]], columns: int) -> bool:
    """Whether two columns or more hold only zeros and ones."""
    return sum({line[at].strip() for line in lines} <= {"0", "1", "0.0", "1.0"} for at in range(columns)) > 1


def _distinct(rows: list[Row], place: Path) -> list[Row]:
    """The rows, repeated ones once. Raises InputError for a file with two labels, splits or groups."""
    first: dict[str, Row] = {}
    for row in rows:
        before = first.setdefault(row[0], row)
        for what, one, other in zip(("labels", "splits", "groups"), before[1:], row[1:], strict=True):
            if one == other:
                continue
            raise InputError(f"{place}: {row[0]!r} occurs with two {what}, {one!r} and {other!r}; expected one")
    return list(first.values())


def _existing(names: Iterable[str], home: Path, place: Path) -> list[Path]:
    """The files of these names. Raises InputError that counts and names those that are missing."""
    found = {name: _file(home, name) for name in names}
    if missing := [name for name, path in found.items() if path is None]:
        shown = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise InputError(f"{place}: {len(missing)} of {len(found)} files are missing in {home}: {shown}; set the folder, as "
                         "in csv:folder=images, or remove the rows")
    return [path for path in found.values() if path is not None]


def _file(home: Path, name: str) -> Path | None:
    """The file of this name, as Windows writes it too, or the one image with this name and a suffix. Raises InputError for
    several."""
    for path in (home / name, home / name.replace("\\", "/")):
        if os.path.isfile(path):  # noqa: PTH113 - False for a name that no file can have
            return path
        near = [path.with_name(path.name + suffix) for suffix in (*sorted(files.SUFFIXES), ".npy")] if path.name else []
        found = [one for one in near if os.path.isfile(one)]  # noqa: PTH113
        if len(found) > 1:
            raise InputError(f"{name!r} may be {found[0]} or {found[1]}; write the suffix")
        if found:
            return found[0]
    return None
