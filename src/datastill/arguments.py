"""What public functions are given from Python: paths, numbers, progress and the like, checked by the parameter's name."""

from __future__ import annotations

import errno
import functools
import inspect
import math
import numbers as numbers_
import operator
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from datastill.errors import InputError
from datastill.progress import Progress
from datastill.tables import PLAIN, is_plain, shown

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with its arguments checked where their names are in ``CHECKS``: text is accepted as a path. A wrong one
    raises InputError with one line."""
    signature = inspect.signature(function)
    known = {name: CHECKS[name] for name, one in signature.parameters.items()
                  if name in CHECKS and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        bound = signature.bind(*arguments, **named)
        for name, value in bound.arguments.items():
            if name in known and value is not signature.parameters[name].default:
                bound.arguments[name] = known[name](name, value)
        return function(*bound.args, **bound.kwargs)
    return call


def _path(name: str, value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes) or not os.fspath(value):
        raise InputError(f"{name}: expected a path, got {shown(value)}")
    try:
        os.lstat(value)  # of nothing that is there, as a rule: tells what can never be a path
    except ValueError:
        raise InputError(f"{name}: {shown(value)} is no path: it has a null character, or one outside Unicode") from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise InputError(f"{name}: {shown(value)} is no path: {os.strerror(error.errno).lower()}") from None
    return Path(value)


def _set_folder(name: str, value: Any) -> Path:
    """The folder of a set, given as such or as the set that was loaded from it."""
    return _path(name, value.folder if isinstance(getattr(value, "folder", None), Path) else value)


def _paths(name: str, value: Any) -> tuple[Path, ...]:
    if isinstance(value, (str, os.PathLike)):
        return (_path(name, value),)
    if not isinstance(value, Iterable):
        raise InputError(f"{name}: expected a list of paths, got {shown(value)}")
    return tuple(_path(name, one) for one in value)


def whole(name: str, value: Any, least: int = 0, most: int = 2**63 - 1) -> int:
    """A whole number within limits, of any type that is one. Raises InputError."""
    try:
        found = operator.index(value)
    except TypeError:
        found = least - 1
    if not least <= found <= most or isinstance(value, bool):
        limits = f" from {least} to {most}" if found > most else f", {least} or more"
        raise InputError(f"{name}: expected a whole number{limits}, got {shown(value)}")
    return found


def is_number(value: Any) -> bool:
    """Whether it is a finite real number, numpy's included, and no truth value."""
    try:
        return isinstance(value, numbers_.Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def numbers(name: str, values: Any) -> tuple[float, ...]:
    """At least one finite number. Raises InputError."""
    given = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else []
    if not given or not all(map(is_number, given)):
        raise InputError(f"{name}: expected a list of numbers, such as [0.1, 0.5], got {shown(values)}")
    return tuple(map(float, given))


def _iterations(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InputError(f"{name}: expected a list of iterations, such as [100, 1000], got {shown(value)}")
    return tuple(whole(name, one) for one in value)


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= sys.float_info.max:
        raise InputError(f"{name}: expected a number of seconds, 0 or more, got {shown(value)}")
    return float(value)


def _table(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not is_plain(value):
        raise InputError(f"{name}: expected a dict of {PLAIN}, got {shown(value)}")
    return value


def _progress(name: str, value: Any) -> Progress:
    if not isinstance(value, Progress):
        raise InputError(f"{name}: expected an object of a subclass of datastill.Progress, got {shown(value)}")
    return value


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name}: expected True or False, got {shown(value)}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name}: expected text, got {shown(value)}")
    return value


def _assignments(name: str, value: Any) -> tuple[str, ...]:
    given = None if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if given is None or not all(isinstance(one, str) for one in given):
        raise InputError(f"{name}: expected a list of assignments, such as ['pool.count=2'], got {shown(value)}")
    return given


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "folder": _set_folder, "folders": _paths, "keep": _iterations, "every": _seconds, "about": _table, "progress": _progress,
    "name": _text, "settings": _assignments, "seed": whole, "count": whole,
    **dict.fromkeys(("out", "root", "data_root", "data_path", "scores"), _path),
    **dict.fromkeys(("full", "snapshots", "wait", "force", "retrain"), _truth),
    **dict.fromkeys(("trials", "jobs", "ipc"), functools.partial(whole, least=1))}
