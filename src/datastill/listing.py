"""What `datastill list` and `datastill show` print: families, their members and settings, recipes, studies."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from rich.markup import escape
from rich.table import Column, Table

from datastill import console
from datastill.description import Description, Family, load
from datastill.digest import spec
from datastill.registry import kind, names, noun, preset, presets
from datastill.tables import NONE, leaves


def show_studies() -> None:
    """All studies with their questions and editions."""
    from datastill.studies import study_names, study_path
    from datastill.tables import read_toml
    table = Table("study", "question", "editions")
    for name in study_names():
        content = read_toml(study_path(name))
        table.add_row(name, escape(content["question"]), ", ".join(content.get("editions", {})))
    console.out.print(table)


def show_recipes() -> None:
    """All recipes with their published numbers."""
    from datastill.recipes import Published, recipe_names, recipe_path
    from datastill.tables import read_toml
    table = Table("recipe", "published %", "verified by us")
    for name in recipe_names():
        given = read_toml(recipe_path(name)).get("published")
        published = None if given is None else load(Published, given)
        number = "" if published is None else f"{published.accuracy:.1f}{'*' if published.recalled else ''}"
        verified = "" if published is None else "yes" if published.verified else "not yet"
        table.add_row(name, number, verified)
    console.out.print(table)
    console.out.print("* recalled from memory: check before quoting. `datastill show RECIPE` gives the source.",
                      highlight=False)


def show_family(family: type[Family]) -> None:
    """All members of a family with the first line of their documentation."""
    table = Table("name", "what it is")
    for name in names(family):
        member, settings = preset(family, name)
        table.add_row(name, escape(_stands_for(member, settings) if name in presets(family) else _first_line(member)))
    console.out.print(table)


def _stands_for(member: type[Family], settings: Mapping[str, Any]) -> str:
    """What a name from the literature stands for."""
    return f"{kind(member)}: {', '.join(f'{k}={_typed(v)}' for k, v in leaves(settings).items()) or 'default settings'}"


def show_member(member: type[Description], settings: Mapping[str, Any] | None = None, name: str = "") -> None:
    """Documentation and settings of a member of a family or of another description; ``name`` and ``settings`` are those of
    a preset."""
    title = member.__name__.lower()
    if issubclass(member, Family):
        family = next(base for base in member.__mro__ if vars(base).get("home"))
        title = f"{noun(family)} {name or kind(member)}" + (f" ({_stands_for(member, settings or {})})" if name else "")
    console.out.print(f"[bold]{escape(title)}[/]\n", highlight=False)
    inherited = [base for base in member.__mro__[1:] if issubclass(base, Family) and base is not Family
                 and base.model_fields and base.__doc__ != member.__doc__]
    for cls in (member, *inherited):
        for paragraph in _paragraphs(cls, member.model_fields):
            lines = [one for one in paragraph if cls is member or one[0]]  # the rest is for those who derive from it
            for is_setting, line in lines:
                print(textwrap.fill(line, console.out.width, subsequent_indent="    " * is_setting,
                                    break_on_hyphens=False), file=console.out.file)
            if lines:
                console.out.print()
    if not member.model_fields:
        return
    table = Table("setting", *(Column(name, overflow="fold") for name in ("default", "type")))
    for row in _settings(member, load(member, settings) if settings else None):
        table.add_row(*map(escape, row))
    console.out.print(table)


def _settings(cls: type[Description], usual: Any = None, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(key as ``distill`` takes it, default, type) of every setting, including those of nested descriptions."""
    for key, field in cls.model_fields.items():
        default = field.get_default(call_default_factory=True) if usual is None else getattr(usual, key)
        if isinstance(default, Family):
            yield f"{prefix}{key}", kind(default), "name:option=value"
        if isinstance(default, Description):
            yield from _settings(type(default), default, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "required" if field.is_required() else _typed(default), _type_name(field.annotation)


def _paragraphs(cls: type[Description], settings: Collection[str]) -> Iterator[list[tuple[bool, str]]]:
    """The documentation of a class without its line breaks: the lines of each paragraph, and whether they are about
    settings."""
    import inspect
    for paragraph in (inspect.getdoc(cls) or "").replace("``", "").split("\n\n"):
        lines: list[tuple[bool, str]] = []
        for line in paragraph.splitlines():
            named = re.match(r"(\w+)(, \w+)*: ", line)
            if is_setting := named is not None and named[1] in settings:
                lines.append((is_setting, line))
            elif lines:
                lines[-1] = lines[-1][0], f"{lines[-1][1]} {line.strip()}"
            else:
                lines.append((False, line))
        yield lines


def _typed(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_typed, value))}]"
    if isinstance(value, Family):
        return spec(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bool):
        return str(value).lower()
    return NONE if value is None else str(value) if value != "" else '""'


PLAIN = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): NONE}


def _type_name(annotation: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(inner[0])
    if origin is Literal:
        return " or ".join(map(_typed, inner))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_type_name, inner)))
    if origin is tuple and ... not in inner:
        return f"[{', '.join(map(_type_name, inner))}]"
    if origin in (tuple, dict):
        return f"list of {_type_name(inner[0])}s" if origin is tuple else f"table of {_type_name(inner[1])}s"
    known = noun(annotation) if isinstance(annotation, type) and issubclass(annotation, Family) else PLAIN.get(annotation)
    return known or getattr(annotation, "__name__", str(annotation)).lower()


def _first_line(member: type[Family]) -> str:
    import inspect
    return (inspect.getdoc(member) or "").split("\n\n")[0].replace("\n", " ").replace("``", "")


ALIASES = {"teachers": "pools", "students": "networks", "datasets": "data", "sources": "data", "plug-ins": "plugins"}


def families() -> dict[str, Any]:
    from datastill.core import Method, Plugin, Protocol
    from datastill.data import Source
    from datastill.nets import Architecture
    from datastill.parametrization import Parametrization
    from datastill.teachers import Pool
    return {"methods": Method, "plugins": Plugin, "data": Source, "networks": Architecture,
            "parametrizations": Parametrization, "protocols": Protocol, "pools": Pool}


def parts() -> dict[str, Any]:
    """The parts every run has, by the name of their table."""
    from datastill.core import Optim
    from datastill.data import Data
    from datastill.run import Run
    return {"run": Run, "data": Data, "optim": Optim}


def show_list(what: str) -> bool:
    """Show the list of this name, also in the singular or under another name; whether there is one."""
    wanted = {what, f"{what}s", f"{what[:-1]}ies"}
    wanted |= {ALIASES.get(one, one) for one in wanted}
    if "recipes" in wanted:
        show_recipes()
    elif "studies" in wanted:
        show_studies()
    elif found := [family for name, family in families().items() if name in wanted]:
        show_family(found[0])
    else:
        return False
    return True


def outside(name: str) -> Any:
    """The class that ``package.module:Class`` names, of any family."""
    from datastill.description import Family
    from datastill.registry import find
    return find(Family, name)
