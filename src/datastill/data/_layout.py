"""How image files are laid out in folders: which folders are splits, and which are classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from datastill.data import _image_files as files
from datastill.data._caveats import say
from datastill.errors import InputError
from datastill.files import real

TRAIN, VALIDATION, TEST = "training", "validation", "test"
WORDS = {**dict.fromkeys(("train", "training", "trainval"), TRAIN), **dict.fromkeys(("test", "testing"), TEST),
         **dict.fromkeys(("val", "valid", "validation", "dev", "development", "eval", "evaluation"), VALIDATION)}
FILLERS = re.compile(r"dataset|set|data|split|folder|images?|imgs?|seg|[\W\d_]")


class Split(NamedTuple):
    """Where one split is, and the folder of each class, in order."""

    folder: Path
    classes: dict[str, Path]


class Layout(NamedTuple):
    """The splits found; without test images, a part of the training images is held out."""

    train: Split
    test: Split | None = None
    validation: Split | None = None


def layout(place: Path, nested: bool, left_out: Counter[str]) -> Layout:
    """The layout at ``place``. Folders that belong to no split are counted in ``left_out``, with their images.

    Raises InputError if it is not clear which folders are splits or classes (the latter unless ``nested``).
    """
    names = files.folder_names(place)
    inner = {name: files.folder_names(place / name) for name in names}
    if found := _splits(place, names):
        return _of_splits(place, names, found, nested, left_out)
    if len(names) == 1 and inner[names[0]] and not files.image_names(place / names[0]):
        raise InputError(f"{place} contains only the folder {_shown(names)}, which contains {_shown(inner[names[0]])}; set "
                         f"data.path to {place / _shown(names)} if those are the splits or the classes")
    if any(_splits(place / name, folders) for name, folders in inner.items()):
        return _splits_in_classes(place, inner)
    train = _split(place, files.class_folders(place, None))
    _check_classes(train, nested)
    _say_beside(place)
    return Layout(train)


def _say_beside(place: Path) -> None:
    """Say if the folder is one of several splits, of which the others are not read."""
    with suppress(InputError):
        whole = real(place)
        found = split_of(files.folder_names(whole.parent))
        if whole.name in found and (others := [name for name in found if name != whole.name]):
            say(place, f"beside it is {_shown(others)}, which is not read; to use both, set data.path to {whole.parent}")


def split_of(names: Iterable[str]) -> dict[str, str]:
    """Those of these folder names that name a split, and which: words such as "train" in any case, beside digits and
    fillers ("Train_Set"), or beside a word that is the same for two splits ("cars_train" and "cars_test")."""
    words = {name: FILLERS.sub(" ", name.lower()).split() for name in names}
    role = {name: [WORDS[word] for word in of if word in WORDS] for name, of in words.items()}
    rest = {name: [word for word in of if word not in WORDS] for name, of in words.items()}
    single = [name for name, roles in role.items() if len(roles) == 1]
    return {name: role[name][0] for name in single if not rest[name] or any(
        rest[name] == rest[other] and role[name] != role[other] for other in single)}


def check_no_split_inside(folder: Path, split: str, paths: list[Path]) -> None:
    """Raises InputError if one of these images in the folder of a class, of the "training" images for example, is in a
    folder named after another split."""
    for inside in sorted({path.parent for path in paths}):
        for name, other in split_of(inside.relative_to(folder).parts).items():
            if other != split:
                raise InputError(f"{inside}: {name} looks like {other} images among the {split} images; move it out, or "
                                 "rename it if it belongs to them")


def _splits(place: Path, names: list[str]) -> dict[str, str]:
    """The name of the folder of each split. Raises InputError for two of one."""
    found: dict[str, str] = {}
    for name, role in split_of(names).items():
        if role in found:
            raise InputError(f"{place} contains {_shown([found[role], name])}, both named like {role} images; rename one or "
                             "move it away, or set data.path to the folder that contains the right ones")
        found[role] = name
    return found


def _of_splits(place: Path, names: list[str], found: dict[str, str], nested: bool, left_out: Counter[str]) -> Layout:
    """One folder for each split."""
    others = [name for name in names if name not in found.values()]
    if TRAIN not in found:
        beside = f" beside {_shown(others)}" if others else ""
        raise InputError(f"{place} contains {_shown(found.values())}{beside}, but no folder of training images; call it "
                         f"train/, or, if {_shown(found.values())} is a class, rename it")
    if others and len(found) == 1:
        raise InputError(f"{place} contains {found[TRAIN]} and {_shown(others)}; rename the folder of test images to test/, "
                         f"or move all except {found[TRAIN]} away to hold out a part of it for testing; if "
                         f"{found[TRAIN]} is a class, rename it")
    inside = {role: _innermost(place / name) for role, name in found.items()}
    train, test, validation = inside[TRAIN], inside.get(TEST), inside.get(VALIDATION)
    if test is None:
        test, validation = validation, None
    classes = files.class_folders(train, test)
    if validation is not None and files.folder_names(validation) != classes:
        others, validation = [*others, found[VALIDATION]], None
    for name in others:
        left_out[f"images in {name}/"] = len(files.image_tree(place / name))
    first = _split(train, classes)
    _check_classes(first, nested)
    return Layout(first, None if test is None else _split(test, classes),
                  None if validation is None else _split(validation, classes))


def _split(folder: Path, classes: list[str]) -> Split:
    return Split(folder, {name: folder / name for name in classes})


def _innermost(split: Path) -> Path:
    """The folder of the classes, where that of a split contains only itself once more (``seg_train/seg_train``)."""
    inner = files.folder_names(split)
    same = len(inner) == 1 and split_of(inner) and [*split_of(inner).values()] == [*split_of([split.name]).values()]
    return _innermost(split / inner[0]) if same else split


def _splits_in_classes(place: Path, inner: dict[str, list[str]]) -> Layout:
    """The same splits in the folder of each class."""
    found = {name: _splits(place / name, folders) for name, folders in inner.items()}
    roles, example = set(next(filter(None, found.values()))), next(name for name in inner if found[name])
    for name, folders in inner.items():
        if TRAIN not in roles or set(found[name]) != roles or len(folders) != len(roles) or files.image_names(place / name):
            looks = "looks like a split" if len(found[example]) == 1 else "look like splits"
            other = "" if name == example else f", and {_shown([name])} contains {_shown(folders) or 'no folders'}"
            raise InputError(f"{place}: {_shown([example])} contains {_shown(found[example].values())}, which {looks}"
                             f"{other}; expected training images and the same splits and nothing else in each, or "
                             "train/CLASS/ and test/CLASS/")
    first, *more = (role for role in (TRAIN, TEST, VALIDATION) if role in roles)
    of = [Split(place, {name: place / name / found[name][role] for name in inner}) for role in (first, *more)]
    return Layout(*of)


def _check_classes(split: Split, nested: bool) -> None:
    """Raises InputError if it is the folders inside those of the classes that look like classes."""
    inner = [set(files.folder_names(folder)) for folder in split.classes.values()]
    shared = sorted(set.intersection(*inner))
    if nested or len(shared) < 2 or any(files.image_names(folder) for folder in split.classes.values()):
        return
    raise InputError(f"each of the folders {_shown(split.classes)} in {split.folder} contains only folders, among them "
                     f"{_shown(shared)}; if these are the classes, set data.path to one of the former; if not, set "
                     "data.source=folder:nested=true")


def _shown(names: Iterable[str]) -> str:
    names = list(names)
    text = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return text.encode(errors="backslashreplace").decode()  # a file name need not be Unicode
