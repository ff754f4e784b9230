"""Recipes: a run, the protocol it is scored by, and the published number to compare with. One TOML file per table cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field

from datastill.core import Protocol
from datastill.data import Data
from datastill.description import Description, load
from datastill.errors import InputError
from datastill.nets.convnet import ConvNet
from datastill.protocols.dc import DC
from datastill.registry import find, kind, names
from datastill.run import Run
from datastill.tables import changed, near, override, own_file, parse_spec, read_toml
from datastill.teachers import Pool

OWN = "/own-"  # in the names of the recipes for data of one's own


class Published(Description):
    """A number from the literature: accuracy (and std) in percent, where it is published, how far it can be trusted.

    recalled: known from memory of the paper only. verified: reached by us within a point of our interval, in some
    cases with a shorter training of the feature network (docs/results/published.md).
    """

    accuracy: float = Field(ge=0.0, le=100.0)
    std: float | None = Field(default=None, ge=0.0)
    source: str
    recalled: bool = False
    verified: bool = False


class Recipe(Description):
    """What ``datastill distill`` takes: the keys of a Run, and also ``protocol`` and ``published``.

    name: empty if the data are others than those the recipe is named after.
    """

    name: str
    run: Run
    protocol: Protocol = DC()
    published: Published | None = None

    def about(self) -> dict[str, Any]:
        """What the card of the distilled set records about its recipe."""
        from datastill.digest import dump
        published = {} if self.published is None else {"published": dump(self.published)}
        return {**({"recipe": self.name} if self.name else {}), "protocol": dump(self.protocol), **published}


def recipe_names() -> list[str]:
    """All recipes that come with the package, ``method/data-ipcN``."""
    root = _root()
    return sorted((str(path.relative_to(root).with_suffix("")) for path in root.glob("*/*.toml")), key=_natural)


def recipe_path(name: str) -> Path:
    """The file of a recipe by name, or the file ``name`` itself. Raises InputError with the nearest names."""
    inside = _root() / f"{name}.toml"
    if name.count("/") == 1 and ".." not in name and inside.is_file():
        return inside
    if name in {path.stem for path in (_root().parent / "studies").glob("*.toml")}:
        raise InputError(f"{name} is a study of many runs, not a recipe for one; datastill study {name} carries it out, and "
                         "with --plan says how long that takes")
    return own_file(name, "recipe", recipe_names())


def read_recipe(name: str, assignments: Iterable[str] = (), changes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe by name or path with changes by dotted key: a table of them, then ``key=value`` texts.

    Raises InputError naming the wrong key or value.
    """
    path = recipe_path(name)
    table = written = read_toml(path)
    for key in ("digest", "started_from"):
        table.pop(key, None)  # a run.toml is a recipe too
    assignments = list(assignments)
    keys = [*(changes or {}), *(one.partition("=")[0].strip() for one in assignments)]
    if any(key.partition(".")[0] == "published" for key in keys):
        raise InputError("published: what a paper reports belongs to the recipe as written and cannot be changed; write a "
                         "recipe of your own")
    table = override(changed(table, changes or {}), assignments)
    beside = {key: table.pop(key) for key in ("protocol", "published") if key in table}
    if "published" in beside and any(key != "seed" for key in keys):
        del beside["published"]  # the number belongs to the recipe as written
    run = load(Run, table)
    other = name in recipe_names() and OWN not in name and kind(run.data.source) != kind(load(Data, written["data"]).source)
    return load(Recipe, {"name": "" if other else _shown(name, path), "run": run, **beside})


class Teaching(Description):
    """What ``datastill teach`` takes beside a recipe: a pool and the data of the runs it is for."""

    pool: Pool
    data: Data = Data()


def read_pools(name: str, assignments: Iterable[str] = (), usual: Iterable[str] = ()) -> tuple[
        tuple[Pool, ...], Data, Run | None]:
    """The pools of a recipe (by name or path), or one of a kind (``module:Class`` too) or a file with a table [pool]; the
    data they are for; the run, if it was a recipe. Without a run, a pool that names no networks is of ``ConvNet()``.

    usual: assignments to the pool that hold where nothing else is given. Raises InputError: unknown name or key, a recipe
    that queries no teachers.
    """
    assignments = list(assignments)
    if name.partition(":")[0] in names(Pool) or (":" in name and not Path(name).exists()):
        table = changed({"pool": parse_spec(name)}, {})
    elif name not in recipe_names() and not name.endswith(".toml") and not Path(name).is_file():
        raise InputError(f"unknown pool {name!r}{near(name, [*names(Pool), *recipe_names()])}; expected a kind of pool "
                         f"({', '.join(names(Pool))}), or a recipe or a file that has one")
    elif name not in recipe_names() and "pool" in (content := read_toml(recipe_path(name))):
        table = content
    else:
        run = read_recipe(name, assignments).run
        if not run.pools():
            raise InputError(f"no plug-in of {name} queries teachers; add one, as in plugins.clom.weight=1000, or name a "
                             f"kind of pool: {', '.join(names(Pool))}")
        return run.pools(), run.data, run
    teaching = load(Teaching, _with_usual(override(table, assignments), usual))
    return (teaching.pool.for_network(ConvNet()),), teaching.data, None


def _with_usual(table: dict[str, Any], usual: Iterable[str]) -> dict[str, Any]:
    """The table with these assignments to its pool where it says nothing else and its kind of pool has such a setting."""
    pool = parse_spec(table["pool"]) if isinstance(table["pool"], str) else table["pool"]
    known = find(Pool, pool["kind"]).model_fields if isinstance(pool, dict) and isinstance(pool.get("kind"), str) else {}
    fields = {one: one.partition("=")[0].removeprefix("pool.") for one in usual}
    return override(table, [one for one, field in fields.items() if field in known and field not in pool])


def _shown(name: str, path: Path) -> str:
    return name if name in recipe_names() else path.name


def _root() -> Path:
    return Path(str(resources.files(__name__)))


def _natural(name: str) -> tuple[str, int]:
    stem, _, ipc = name.rpartition("-ipc")
    return (stem, int(ipc)) if ipc.isdigit() else (name, 0)
