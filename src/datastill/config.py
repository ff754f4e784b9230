"""Descriptions: frozen models whose fields are hyper-parameters, found by name, read and written as TOML, digested.

The file name is the registry: ``datastill/plugins/total_variation.py`` holds the plug-in ``total_variation``. Code outside
the package is found by entry point (group ``datastill.plugins``) or as ``package.module:Class``.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib
import inspect
import json
import pkgutil
import sys
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from datastill.errors import InputError

SCHEMA = 1  # of the TOML form; raised when an old file would be read wrongly
NONE = "none"  # how a table says None
NOT_DECISIVE = "not decisive"  # metadata of a field that does not decide a result (a path, say): left out of the digest

D = TypeVar("D", bound="Description")


class Description(BaseModel):
    """A frozen set of hyper-parameters; unknown keys are refused. ``version`` is raised when the meaning changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)
    version: ClassVar[int] = 1


class Family(Description):
    """A description whose class is chosen by name (``kind``). ``home`` is the package its members are found in;
    ``bare`` the field that may stand behind the name without its own: ``torchvision:resnet50``."""

    home: ClassVar[str] = ""
    bare: ClassVar[str] = ""

    @model_validator(mode="wrap")
    @classmethod
    def _by_name(cls, value: Any, handler: Any) -> Any:
        """Where a member of an abstract family is expected, a name with options or a table will do."""
        if inspect.isabstract(cls) and isinstance(value, (str, Mapping)):
            return load(cls, value)
        return handler(value)


def kind(member: type[Family] | Family) -> str:
    """Name under which ``find`` gives this class back: its file name, or ``package.module:Class`` outside its home."""
    cls = member if isinstance(member, type) else type(member)
    package, _, module = cls.__module__.rpartition(".")
    return module if package == cls.home else f"{cls.__module__}:{cls.__qualname__}"


def find(family: type[Family], name: str) -> type[Family]:
    """The member of ``family`` called ``name``: a file of its home, an entry point, or ``package.module:Class``.

    Raises InputError for an unknown name (with the nearest ones) or a class that is not a member.
    """
    if ":" in name:
        return _outside(family, name)
    if (member := _inside(family, name)) is not None:
        return member
    for entry in entry_points(group=family.home, name=name):
        return _check_member(family, entry.load(), name)
    raise InputError(f"unknown {_noun(family)} {name!r}{nearest(name, names(family))}")


def _inside(family: type[Family], name: str) -> type[Family] | None:
    if not family.home or not name.isidentifier() or name.startswith("_"):
        return None
    try:
        return _member_of(family, importlib.import_module(f"{family.home}.{name}"))
    except ModuleNotFoundError as error:
        if error.name != f"{family.home}.{name}":
            raise
        return None


def names(family: type[Family]) -> list[str]:
    """All names ``find`` knows for this family: files of its home, then entry points."""
    home = importlib.import_module(family.home)
    inside = [m.name for m in pkgutil.iter_modules(home.__path__) if not m.name.startswith("_") and _member_of(
        family, importlib.import_module(f"{family.home}.{m.name}")) is not None]
    return sorted(inside) + sorted({entry.name for entry in entry_points(group=family.home)} - set(inside))


def nearest(name: str, known: Iterable[str]) -> str:
    """End of an error line: the nearest known names, or all of them where none is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else f"; known: {', '.join(known) or 'none'}"


def _noun(family: type[Family]) -> str:
    return {"datastill.nets": "network", "datastill.data": "dataset"}.get(family.home, family.__name__.lower())


def _member_of(family: type[Family], module: types.ModuleType) -> type[Family] | None:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, family) and value.__module__ == module.__name__ \
                and not inspect.isabstract(value):
            return value
    return None


def _check_member(family: type[Family], value: object, name: str) -> type[Family]:
    if not (isinstance(value, type) and issubclass(value, family)):
        raise InputError(f"{name} is not a {_noun(family)}: expected a subclass of datastill.{family.__name__}")
    if inspect.isabstract(value):
        raise InputError(f"{name} is abstract: it does not define {', '.join(sorted(value.__abstractmethods__))}")
    return value


def _outside(family: type[Family], name: str) -> type[Family]:
    module_name, _, class_name = name.partition(":")
    if _inside(family, module_name) is not None:
        raise InputError(f"{name}: option {class_name!r} needs a value, as in {module_name}:{class_name}=...")
    if not all(part.isidentifier() for part in (*module_name.split("."), *class_name.split("."))):
        raise InputError(f"{name}: expected package.module:Class, or name:option=value")
    try:
        module = sys.modules.get(module_name) or importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise InputError(f"{name}: importing {module_name} failed: {error}") from error
        raise InputError(f"{name}: no module {module_name!r}; it must be importable "
                         "(the working folder and PYTHONPATH are searched)") from None
    except Exception as error:  # the module is the user's: whatever it raises is bad input
        raise InputError(f"{name}: importing {module_name} failed: {type(error).__name__}: {_one_line(error)}") from error
    found: Any = module
    for part in class_name.split("."):
        if not hasattr(found, part):
            classes = [k for k, v in vars(found).items() if isinstance(v, type) and v.__module__ == module.__name__]
            raise InputError(f"{name}: {module_name} has no class {class_name!r}{nearest(part, classes)}")
        found = getattr(found, part)
    return _check_member(family, found, name)


# --- reading -----------------------------------------------------------------------------------------------------------


def parse_spec(text: str) -> dict[str, Any]:
    """``"convnet:width=32,norm=batch"`` -> ``{"kind": "convnet", "width": 32, "norm": "batch"}``."""
    head, separator, tail = text.rpartition(":")
    if not separator or "=" not in tail:
        return {"kind": text}
    try:
        return override({"kind": head}, [f"{key.strip()}={value.strip()}" if equals else item
                                         for item in tail.split(",") for key, equals, value in [item.partition("=")]])
    except InputError as error:
        raise InputError(f"{text!r}: expected name:option=value,option=value; {error}") from None


def parse_value(text: str) -> Any:
    """A TOML value where the text is one, else the text itself."""
    try:
        table = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return table["value"] if len(table) == 1 else text


def override(table: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """The table with dotted ``key=value`` assignments applied, on a copy. Raises InputError for a malformed one."""
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals or not all(path.strip().split(".")):
            raise InputError(f"expected key=value with dots between keys, got {assignment!r}")
        table = changed(table, {path.strip(): parse_value(value)})
    return table


def changed(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The table with values set by dotted key, on a copy. Raises InputError where a key leads into a value."""
    result = copy.deepcopy(dict(table))
    for path, value in changes.items():
        *way, last = path.split(".")
        place = result
        for key in way:
            inner = place.get(key, {})
            if isinstance(inner, str):
                inner = parse_spec(inner)
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


def load(cls: type[D], given: Any, path: str = "", base: Any = None) -> D:
    """Build a description from a table (or, for a family, from a name with options), validated.

    Settings that are not given are those of ``base`` where it is of the same class: inside a field they are its
    default's, so that changing one setting of a method's optimizer leaves the method's others.

    Raises InputError: one line with the path of the wrong key, what came and what is allowed.
    """
    if isinstance(given, cls):
        return given
    if issubclass(cls, Family) and isinstance(given, str):
        given = parse_spec(given)
    if not isinstance(given, Mapping):
        raise InputError(f"{path or cls.__name__}: expected a table, got {given!r}")
    given = dict(given)
    if issubclass(cls, Family):
        cls = _choose(cls, given, path, base)
    values = {key: getattr(base, key) for key in cls.model_fields} if type(base) is cls else {}
    for key, value in given.items():
        if key not in cls.model_fields:
            raise InputError(f"unknown key {_join(path, key)!r}{nearest(key, cls.model_fields)}")
        field = cls.model_fields[key]
        usual = values[key] if key in values else field.get_default(call_default_factory=True)
        values[key] = _resolve(field.annotation, value, _join(path, key), usual)
    try:
        return cls(**values)
    except ValidationError as error:
        raise InputError(explain(error, path)) from None


def _choose(cls: type[Family], given: dict[str, Any], path: str, base: Any) -> Any:
    name = given.pop("kind", None)
    if name is None:
        if isinstance(base, cls):
            return type(base)
        if inspect.isabstract(cls):
            raise InputError(f"{path or cls.__name__}: 'kind' is missing; known: {', '.join(names(cls))}")
        return cls
    if not isinstance(name, str):
        raise InputError(f"{_join(path, 'kind')}: expected a name, got {name!r}")
    head, _, bare = name.partition(":")
    if bare and (member := _inside(cls, head)) is not None and member.bare:
        given.setdefault(member.bare, bare)
        return member
    try:
        return find(cls, name)
    except InputError as error:
        raise InputError(f"{path}: {error}" if path else str(error)) from None


def _resolve(annotation: Any, value: Any, path: str, usual: Any) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(value, (int, float) if origin is not tuple else (str, int, float)) and any(
            typing.get_origin(a) is tuple and typing.get_args(a)[1:] == (...,) for a in (annotation, *arguments)):
        value = (value,)  # a list of one may be given as that one
    if origin in (typing.Union, types.UnionType):
        if value == NONE and type(None) in arguments:
            return None
        inner = [a for a in arguments if _is_description(a)]
        return _resolve(inner[0], value, path, usual) if inner and isinstance(value, (Mapping, str)) else value
    if _is_description(annotation):
        return load(annotation, value, path, usual)
    if origin is tuple and _is_description(arguments[0]):
        return _several(arguments[0], value, path)
    if origin is dict and _is_description(arguments[1]) and isinstance(value, Mapping):
        return {key: load(arguments[1], table, _join(path, key)) for key, table in value.items()}
    return value


def _several(cls: type[Any], value: Any, path: str) -> Any:
    """Descriptions that stand in a table by label, or in a list where they have none."""
    if _is_labeled(cls) and isinstance(value, Mapping):
        return tuple(_labeled(cls, label, table, _join(path, label)) for label, table in value.items())
    if not _is_labeled(cls) and isinstance(value, (list, tuple)):
        return tuple(load(cls, one, f"{path}[{number}]") for number, one in enumerate(value))
    return value


def _labeled(cls: type[Family], label: str, table: Any, path: str) -> Family:
    """A member of a table keyed by label: the label is the kind, unless ``kind`` is given."""
    if not isinstance(table, Mapping):
        raise InputError(f"{path}: expected a table like {{weight = 1.0}}, got {table!r}")
    named = {} if table.get("kind", label) == label else {"label": label}
    return load(cls, {"kind": label, **named, **table}, path)


def _is_description(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Description)


def _is_labeled(annotation: Any) -> bool:
    """Whether several of these stand in a table by label; others stand in a list."""
    return _is_description(annotation) and "label" in annotation.model_fields


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def explain(error: ValidationError, path: str = "") -> str:
    """A pydantic error as one line: where, what was expected, what came."""
    problems = error.errors(include_url=False)
    first = problems[0]
    alternatives = [one for one in problems if one["loc"][:-1] == first["loc"][:-1] and one["input"] is first["input"]]
    if len(first["loc"]) > 1 and len(alternatives) > 1:  # of a field that may be one of several things
        first = {**first, "loc": first["loc"][:-1], "msg": " or ".join(dict.fromkeys(
            one["msg"][:1].lower() + one["msg"][1:] for one in alternatives))}
        problems = [one for one in problems if one not in alternatives[1:]]
    where = ".".join([path, *map(str, first["loc"])] if path else map(str, first["loc"]))
    if first["type"] == "missing":
        text = f"{where} is missing"
    elif first["type"] == "value_error":
        text = f"{where}: {first['ctx']['error']}" if where else str(first["ctx"]["error"])
    else:
        text = f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {first['input']!r}"
    return text + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file, its schema number checked and removed. Raises InputError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from None
    if (schema := table.pop("schema", SCHEMA)) != SCHEMA:
        raise InputError(f"{path} is of schema {schema!r}, this version reads {SCHEMA}; use the version that wrote it")
    return table


# --- writing -----------------------------------------------------------------------------------------------------------


def dump(description: Description) -> dict[str, Any]:
    """Every field, defaults and those of subclasses included, as plain values; "none" for None, which TOML lacks."""
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
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        if value and _is_labeled(type(value[0])):
            return {member.label or kind(member): dump(member) for member in value}
        return [_plain(v) for v in value]
    return value


def to_toml(description: Description, **header: Any) -> str:
    """The description as a TOML text that ``load`` reads back to an equal one (once ``header`` is taken off again)."""
    return tomli_w.dumps({"schema": SCHEMA, **header, **dump(description)})


def spec(member: Family) -> str:
    """Short form, ``name:option=value`` with the plain options that differ from their defaults, and ``bare`` in any case:
    ``torchvision:model=resnet18``."""
    always = {member.bare: getattr(member, member.bare)} if member.bare else {}
    options = {**always, **{k: v for k, v in _essence(member).items()
                            if k not in ("kind", "version") and not isinstance(v, (dict, list))}}
    return kind(member) + (":" + ",".join(f"{k}={v}" for k, v in options.items()) if options else "")


def digest(description: Description, *more: str) -> str:
    """16 hex digits naming a result: fields that differ from their defaults, class versions, and ``more``
    (a fingerprint of the data, say). Paths and other fields marked NOT_DECISIVE do not count."""
    text = json.dumps([_essence(description), *more], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _essence(description: Description) -> dict[str, Any]:
    table: dict[str, Any] = {"version": type(description).version}
    if isinstance(description, Family):
        table["kind"] = kind(description)
    for key, field in type(description).model_fields.items():
        value = getattr(description, key)
        if NOT_DECISIVE in field.metadata:
            continue
        # descriptions stand in full, so that a new version of a default one counts; plain values only when changed
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
