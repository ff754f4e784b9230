"""The settings of a run as table rows, with the default next to each one that differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from pydantic_core import PydanticUndefined

import datastill
from datastill.core import Method
from datastill.data import Data
from datastill.data._layout import split_of
from datastill.description import Description, Family, load
from datastill.digest import dump
from datastill.recipes import read_recipe, recipe_names
from datastill.registry import kind, presets
from datastill.tables import leaves

NOT_SET = "not set"


class Setting(NamedTuple):
    """One setting; ``default`` is its default as text, "" if it has none, None if the value is the default."""

    name: str
    value: str
    default: str | None = None


class Group(NamedTuple):
    """Settings that belong together: of the run itself, its method, a plug-in, ..."""

    title: str
    rows: tuple[Setting, ...]


def read(cls: type[Description], table: Any) -> Any:
    """The description in a card, or None if it cannot be loaded here: a class from elsewhere or of another version."""
    try:
        return load(cls, table)
    except Exception:  # an outside class can fail in any way on import; the page is then made without defaults
        return None


def data_name(card: Mapping[str, Any]) -> str:
    """What the data of a set are called: by their file or folder if they are one's own, else by their source."""
    data = read(Data, card["run"].get("data"))
    own = PureWindowsPath(data.path).parts[-2:] if data is not None and data.source.yours and data.path else ()
    named = "/".join(own) if split_of(own[-1:]) else "".join(own[-1:])  # a folder called train says little
    return named if named.strip(".") else name_of(card["data"]["name"])


def method_name(card: Mapping[str, Any]) -> str:
    """What the method of a set is called in the literature, such as DM, if its settings are those that tell it apart from
    others of its kind; else its kind. Of numbers only whether they are 0 tells: how much is no other method. A recipe's own
    settings are those of the method it is named after."""
    method: Method | None = read(Method, card["run"]["method"])
    known = {name: settings for name, (cls, settings) in presets(Method).items() if cls is type(method)}
    named: list[tuple[str, Any]] = [(name, read(Method, name)) for name in known]
    telling = sorted({key for settings in known.values() for key in leaves(settings)})
    if (recipe := card.get("recipe")) in recipe_names() and (name := recipe.partition("/")[0]) in known:
        named.append((name, read_recipe(recipe).run.method))

    def told(one: Method) -> list[Any]:
        table = leaves(dump(one))
        values = [table.get(key) for key in telling]
        return [bool(one) if isinstance(one, (int, float)) else one for one in values]

    found = next((name for name, one in named if method is not None and told(one) == told(method)), None)
    written = {name.lower(): name for name in datastill.__all__}
    return name_of(card["run"]["method"]["kind"]) if found is None else written.get(found, found.replace("_", "-"))


def options(description: Description, usual: Any = PydanticUndefined) -> list[str]:
    """``option=value`` for every option that differs from ``usual`` or its default, including nested ones."""
    return [f"{row.name}={row.value}" for row in differences(description, usual)
            if row.default is not None and row.name != "label"]


def short(description: Family, usual: Any = PydanticUndefined) -> str:
    """``name:option=value,option=value``, as typed on the command line; without what is as in ``usual`` or the default."""
    shown = options(description, usual)
    if (bare := description.bare) and not any(option.startswith(f"{bare}=") for option in shown):
        shown.insert(0, f"{bare}={getattr(description, bare)}")
    return ":".join(filter(None, (kind(description), ",".join(shown))))


def short_table(cls: type[Family], table: Mapping[str, Any]) -> str:
    """The short form of a dumped description; only its name if it cannot be loaded here."""
    description = read(cls, table)
    return str(table.get("kind", "?")) if description is None else short(description)


def groups(run: Description) -> tuple[Group, ...]:
    """All settings of a run: a group for each description in it, the run's plain fields last."""
    plain: list[Setting] = []
    found: list[Group] = []
    for key, field in type(run).model_fields.items():
        value, usual = getattr(run, key), field.get_default(call_default_factory=True)
        if isinstance(value, Description):
            found.append(Group(key, tuple(_rows("", value, usual))))
        elif isinstance(value, tuple) and value and isinstance(value[0], Family):
            singular = key.removesuffix("s").replace("plugin", "plug-in")
            found += [Group(f"{singular} {getattr(member, 'label', '') or name_of(kind(member))}",
                            tuple(_rows("", member, PydanticUndefined))) for member in value]
        else:
            plain += _rows(key, value, usual)
    return (*found, Group("run", tuple(plain)))


def groups_of_table(table: Mapping[str, Any]) -> tuple[Group, ...]:
    """The same for a dumped run that cannot be loaded here: no defaults are known."""
    plain = tuple(Setting(key, text(value)) for key, value in table.items() if not isinstance(value, Mapping))
    inner = [Group(key, tuple(Setting(inside, text(v)) for inside, v in leaves(value).items()))
             for key, value in table.items() if isinstance(value, Mapping) and value]
    return (*inner, Group("run", plain))


def differences(description: Description, usual: Any = PydanticUndefined, path: str = "") -> list[Setting]:
    """Every field by dotted name, compared with ``usual`` if it has the same class, else with the defaults of the class."""
    rows = []
    for key, field in type(description).model_fields.items():
        own = field.get_default(call_default_factory=True)
        default = getattr(usual, key) if type(usual) is type(description) else own
        rows += _rows(f"{path}.{key}" if path else key, getattr(description, key), default)
    return rows


def _rows(path: str, value: Any, usual: Any) -> list[Setting]:
    if isinstance(value, Description):
        own = []
        if isinstance(value, Family):
            other = isinstance(usual, Family) and type(usual) is not type(value)
            own = [Setting(path or "kind", kind(value), kind(usual) if other else None)]
        return own + differences(value, usual, path)
    if isinstance(value, dict) and any(isinstance(inner, Description) for inner in value.values()):
        before = usual if isinstance(usual, dict) else {}
        return [row for key, inner in value.items()
                for row in _rows(f"{path}.{key}", inner, before.get(key, PydanticUndefined))]
    if value == usual:
        return [] if text(value) == NOT_SET else [Setting(path, text(value))]
    return [Setting(path, text(value), "" if usual is PydanticUndefined else text(usual))]


def text(value: Any) -> str:
    """A value as one would type it. Only the last part of a local path is shown, because the page is meant to be shared."""
    if value is None or value in ("", (), [], {}):
        return NOT_SET
    if isinstance(value, Description):
        return short(value) if isinstance(value, Family) else ", ".join(options(value)) or "defaults"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text(one)}" for key, one in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(text(one) for one in value)
    if isinstance(value, str):
        return hidden(value)
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def hidden(value: str) -> str:
    """The text, or its last part if it is an absolute path."""
    for flavor in (PurePosixPath(value), PureWindowsPath(value)):
        if flavor.is_absolute() or value.startswith("~"):
            return f"…/{flavor.name}"
    return value


def name_of(kind: str) -> str:
    """The bare name of a kind: ``package.module:Class`` -> ``Class``."""
    return kind.rpartition(":")[2]
