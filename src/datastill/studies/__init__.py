"""Studies that come with the package, one TOML file each, with a small edition for two cores and the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from datastill.description import load
from datastill.errors import InputError
from datastill.recipes import recipe_names
from datastill.study import Study
from datastill.tables import leaves, own_file, read_toml

LAID_OVER = ("changes", "along")  # tables of a study that an edition adds to; it replaces all else it names


def study_names() -> list[str]:
    """All studies that come with the package."""
    return sorted(path.stem for path in _root().glob("*.toml"))


def study_path(name: str) -> Path:
    """The file of a study by name, or the file ``name`` itself. Raises InputError with the nearest names."""
    if name in study_names():
        return _root() / f"{name}.toml"
    if name in recipe_names():
        raise InputError(f"{name} is a recipe for one run, not a study; datastill distill {name} carries it out, datastill "
                         "plan says how long that takes")
    return own_file(name, "study", study_names())


def load_study(name: str, edition: str = "") -> tuple[Study, str]:
    """A study by name or path, in one of its editions, and a name for its folder. Raises InputError."""
    path = study_path(name)
    study = read_study(read_toml(path), edition)
    return study, "-".join(filter(None, (path.stem, edition)))


def read_study(table: Mapping[str, Any], edition: str = "") -> Study:
    """A study from its table. Raises InputError for an edition that is not there, an unknown key or value."""
    table = dict(table)
    editions = table.pop("editions", {})
    if not isinstance(editions, Mapping) or not all(isinstance(own, Mapping) for own in editions.values()):
        raise InputError("editions: expected a table for each edition, as in [editions.small]")
    if edition and edition not in editions:
        raise InputError(f"no edition {edition!r}; known: {', '.join(editions) or 'none'}")
    read = {}
    for name, own in {"": {}, **editions}.items():  # all of them, so that a slip in another edition is found too
        try:
            read[name] = load(Study, _laid(table, own))
        except InputError as error:
            raise InputError(f"editions.{name}: {error}" if name else str(error)) from None
    return read[edition]


def _laid(table: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A study's table with that of an edition laid over it."""
    result = dict(table)
    for key, value in own.items():
        laid = key in LAID_OVER and isinstance(value, Mapping) and isinstance(table.get(key, {}), Mapping)
        result[key] = {**leaves(table.get(key, {})), **leaves(value)} if laid else value
    return result


def _root() -> Path:
    return Path(str(resources.files(__name__)))
