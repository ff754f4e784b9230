"""Descriptions written out: as plain tables, as TOML, in short form; and the digest that identifies a result."""

from __future__ import annotations

import hashlib
import inspect
import json
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import tomli_w

from datastill.description import NOT_DECISIVE, Description, Family
from datastill.files import checksum
from datastill.foreign import is_foreign, name_of
from datastill.registry import kind
from datastill.tables import NONE, SCHEMA


def dump(description: Description) -> dict[str, Any]:
    """Every field, including defaults and fields of subclasses, as plain values; "none" for None, which TOML lacks."""
    table: dict[str, Any] = {"kind": kind(description)} if isinstance(description, Family) else {}
    for key in type(description).model_fields:
        table[key] = _plain(getattr(description, key))
    return table


def _plain(value: Any) -> Any:
    if value is None:
        return NONE
    if isinstance(value, Description):
        return dump(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        if value and "label" in getattr(type(value[0]), "model_fields", ()):  # written as a table by label
            return {member.label or kind(member): dump(member) for member in value}
        return [_plain(v) for v in value]
    return value


def to_toml(description: Description, **header: Any) -> str:
    """The description as TOML that ``load`` reads back to an equal one (once ``header`` is removed)."""
    return tomli_w.dumps({"schema": SCHEMA, **header, **dump(description)})


def to_sealed_toml(description: Description, **header: Any) -> str:
    """The same with a checksum of its content in front, which ``read_toml`` checks."""
    return tomli_w.dumps({"checksum": checksum(tomllib.loads(text := to_toml(description, **header)))}) + text


def spec(member: Family, nested: bool = False) -> str:
    """Short form, ``name:option=value`` with the plain options that differ from their defaults, and always ``bare``:
    ``torchvision:model=resnet18``. nested: and those of its parts that are no members of families, ``views.strips=2``."""
    always = {member.bare: getattr(member, member.bare)} if member.bare else {}
    essence = {k: v for k, v in _essence(member).items() if k not in ("kind", "version")}
    inside = {f"{k}.{name}": value for k, v in essence.items() if nested and isinstance(v, dict) and "kind" not in v
              for name, value in v.items() if name != "version"}
    options = {k: v for k, v in {**always, **essence, **inside}.items() if not isinstance(v, (dict, list))}
    return kind(member) + (":" + ",".join(f"{k}={v}" for k, v in options.items()) if options else "")


def digest(description: Description, *more: str) -> str:
    """16 hex digits that identify a result, from the fields that differ from their defaults, class versions, and ``more``
    (such as a fingerprint of the data). Paths and other fields marked NOT_DECISIVE do not count."""
    text = json.dumps([_essence(description), *more], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def foreign_code(description: Description) -> dict[str, str]:
    """Hashes of the source text of the classes from outside the package in a description, by name; without those whose text
    is not at hand. Not part of a digest: that is what the version of a class is for."""
    found = {}
    for cls in {type(one) for one in _within(description)}:
        if is_foreign(cls):
            with suppress(OSError, TypeError):
                found[name_of(cls)] = hashlib.sha256(inspect.getsource(cls).encode()).hexdigest()[:16]
    return found


def _within(value: Any) -> Iterator[Description]:
    """A description and those in its fields."""
    if isinstance(value, Description):
        yield value
        value = [field for _, field in value]
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from _within(one)


def _essence(description: Description) -> dict[str, Any]:
    table: dict[str, Any] = {"version": type(description).version}
    if isinstance(description, Family):
        table["kind"] = kind(description)
    for key, field in type(description).model_fields.items():
        value = getattr(description, key)
        if NOT_DECISIVE in field.metadata or description.is_path(key):
            continue
        # descriptions are included in full, so that a new version of a default counts; plain values only if changed
        if isinstance(value, Description):
            table[key] = _essence(value)
        elif value != field.get_default(call_default_factory=True):
            table[key] = _members(value)
    return table


def _members(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_members(v) for v in value]
    if isinstance(value, dict):
        return {k: _members(v) for k, v in value.items()}
    return _essence(value) if isinstance(value, Description) else value
