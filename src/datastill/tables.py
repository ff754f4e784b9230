"""Settings as plain tables: what is typed, what is in TOML files, changes by dotted key."""

from __future__ import annotations

import copy
import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from datastill.errors import InputError
from datastill.files import checksum

SCHEMA = 2  # of the TOML form; increased when an old file would be read wrongly
DEEPEST = 50  # tables and lists inside each other; none of ours is nearly so deep
MANY = 25  # names, of which an error line shows only some
PLAIN = "finite numbers, valid text, true or false, lists and tables"  # as an error says what JSON and TOML can hold
NONE = "none"  # how a table writes None
RENAMED = {"initialisations": "count", "initializations": "count", "optimiser": "optimizer"}  # since schema 1
RENAMED_IN = {("data", "name"): "source", ("optim", "lr"): "inner_lr"}  # in this table only


def parse_spec(text: str) -> dict[str, Any]:
    """``"convnet:width=32,norm=batch"`` -> ``{"kind": "convnet", "width": 32, "norm": "batch"}``."""
    if not text.strip() or text.endswith(":"):
        raise InputError(f"expected a name, or name:option=value, got {text!r}")
    head, separator, tail = text.rpartition(":")
    if not separator or "=" not in tail:
        return {"kind": text}
    try:
        return override({"kind": head}, [f"{key.strip()}={value.strip()}" if equals else item
                                         for item in tail.split(",") for key, equals, value in [item.partition("=")]])
    except InputError as error:
        raise InputError(f"{text!r}: expected name:option=value,option=value; {error}") from None


def parse_value(text: str) -> Any:
    """A TOML value if the text is one, else the text itself."""
    try:
        table = _parsed(f"value = {text}")
    except ValueError:
        return text
    return table["value"] if len(table) == 1 else text


def _parsed(text: str) -> dict[str, Any]:
    """The table that a TOML text holds. Raises ValueError: no TOML, a number of too many digits, too many levels."""
    try:
        table = tomllib.loads(text)
        deep = _depth(table) > DEEPEST
    except RecursionError:
        deep = True
    if deep:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    return table


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def override(table: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """The table with dotted ``key=value`` assignments applied, on a copy.

    Raises InputError for a malformed one, and for a key that is given twice.
    """
    seen: dict[str, str] = {}
    for assignment in assignments:
        if not is_unicode(assignment):
            raise InputError(f"expected key=value in valid Unicode, got {assignment!r}; rename the file or folder")
        path, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals or not all(path.split(".")) or path.count(".") > DEEPEST:
            raise InputError(f"expected key=value with dots between keys, got {shown(assignment)}")
        if path in seen:
            raise InputError(f"{path} is given twice, as {seen[path]!r} and as {value!r}; give it once")
        seen[path] = value
        table = changed(table, {path: parse_value(value)})
    return table


def is_unicode(text: str) -> bool:
    """Whether it is valid Unicode; file names, arguments and text arrays need not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_plain(value: Any, besides: type[Any] = NoneType) -> bool:
    """Whether JSON and TOML can hold a value, except for the objects of class ``besides`` in it."""
    def other(one: Any) -> None:
        if not isinstance(one, besides):
            raise TypeError

    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, default=other).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def changed(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The table with values set by dotted key, on a copy. Raises InputError if a key leads into a value."""
    result = copy.deepcopy(dict(table))
    for path, value in changes.items():
        *way, last = path.split(".")
        place = result
        for key in way:
            inner = place.get(key, {})
            if isinstance(inner, str):
                inner = {"source": inner} if key == "data" else parse_spec(inner)
            if not isinstance(inner, dict):
                raise InputError(f"'{path}={value}': {key} is a value, not a table, so nothing can be set inside it")
            place[key] = inner
            place = inner
        place[last] = value
    return result


def leaves(table: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The values of nested tables by dotted key."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        where = f"{path}.{key}" if path else key
        found |= leaves(value, where) if isinstance(value, Mapping) else {where: value}
    return found


def near(name: str, known: Iterable[str]) -> str:
    """End of an error line: the known names that are nearest, if any is near; else nothing."""
    written = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name.lower(), written, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(written[one]) for one in found)}?" if found else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """End of an error line: the nearest known names; if none is near, all of them, or the nearest five of many."""
    written = {one.lower(): one for one in known}
    if meant := near(name, written.values()):
        return meant
    few = written if len(written) <= MANY else difflib.get_close_matches(name.lower(), written, n=5, cutoff=0.0)
    more = f", and {len(written) - len(few)} more" if len(few) < len(written) else ""
    return f"; known: {', '.join(written[one] for one in few) or 'none'}{more}"


def own_file(name: str, noun: str, known: Iterable[str]) -> Path:
    """The file ``name`` of the user's own, where it is not one of the ``known`` names. Raises InputError."""
    if Path(name).is_file():
        return Path(name)
    if name.endswith(".toml"):
        raise InputError(f"no file {name}")
    raise InputError(f"unknown {noun} {name!r}, expected a name or the path of a .toml file{nearest(name, known)}")


def counted(count: int, noun: str) -> str:
    """``1 image``, ``2 images``, ``2 classes``."""
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def per_class(classes: Sequence[str], counts: Sequence[int]) -> str:
    """The number of images of each class, in words: of each by name if they are few and differ, else the smallest and the
    largest."""
    if min(counts) == max(counts):
        return str(counts[0])
    if len(counts) <= 6:
        return ", ".join(f"{name}: {count}" for name, count in zip(classes, counts, strict=True))
    return f"{min(counts)} to {max(counts)}"


def shown(value: Any) -> str:
    """Any value on one line, for a message: that of a module takes pages, and an array is told by its form."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and shape and dtype is not None:
        of = "" if str(dtype).startswith("torch") else f"{type(value).__name__} "
        return f"{of}{dtype} of shape {tuple(shape)}"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of a whole number of thousands of digits, or in a class of the user's
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."


def difference(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> str:
    """The first field in which two descriptions, written as tables, differ, in words."""
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if a == b:
            continue
        where = f"{path}.{key}" if path else key
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            return difference(a, b, where)
        return f"its {where} is {short(a)}, now given: {short(b)}"
    return ""


def short(value: Any) -> str:
    """A plain value on one short line."""
    text = "not set" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def today(table: str, key: str) -> str | None:
    """The current name of a schema 1 key in a table of this name; None if it is not one that was renamed."""
    return RENAMED.get(key) or RENAMED_IN.get((table, key))


def read_text(path: Path) -> str:
    """The text of a TOML file. Raises InputError."""
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except FileNotFoundError:
        raise InputError(f"no file {path}") from None
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file, upgraded to the current schema, without its schema number. Raises InputError."""
    return read_versioned(path)[0]


def read_versioned(path: Path) -> tuple[dict[str, Any], int]:
    """The same, and the schema it was written in."""
    try:
        table = _parsed(read_text(path))
    except ValueError as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from None
    for key, value in leaves(table).items():
        if not is_plain(value):
            raise InputError(f"{path}: {key}: expected {PLAIN}, got {shown(value)}")
    if table.get("checksum", own := checksum(table)) != own:
        raise InputError(f"{path} is damaged or was edited: its checksum does not match; restore it from a copy, or delete "
                         "its line checksum to use it as a recipe of your own")
    table.pop("checksum", None)
    if (schema := table.pop("schema", SCHEMA)) not in (1, SCHEMA) or isinstance(schema, bool):
        raise InputError(f"{path} has schema {schema!r}, this version reads 1 to {SCHEMA}; use the version that wrote it")
    return upgraded(table) if schema == 1 else table, schema


def upgraded(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of schema 1 (a run, or a description in it) with the current names."""
    result = _renamed(table)
    method = result.get("method")
    if isinstance(method, dict) and method.get("kind") == "trajectory" and isinstance(pool := method.get("pool"), dict):
        networks = pool.get("networks")
        if isinstance(networks, list) and len(networks) == 1 and _plain_convnet(networks[0]):
            pool["networks"] = []  # which then stood for the run's own network
    return result


def _plain_convnet(network: Any) -> bool:
    usual = {"kind": "convnet", "width": 128, "depth": 0, "norm": "instance", "activation": "relu", "pooling": "avg"}
    return network == "convnet" or (isinstance(network, dict) and {**usual, **network} == usual)


def _renamed(value: Any, key: str = "") -> Any:
    if isinstance(value, list):
        return [_renamed(one, key) for one in value]
    if not isinstance(value, Mapping):
        return value
    return {today(key, name) or name: _renamed(inner, name) for name, inner in value.items()}
