"""Studies: a base, what is varied, and how it is compared; the description, and the runs it expands to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import product
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from datastill.core import Plugin
from datastill.description import Description, load
from datastill.digest import digest
from datastill.errors import InputError
from datastill.nets import Architecture
from datastill.recipes import Recipe, read_recipe
from datastill.tables import changed, leaves, shown
from datastill.teachers import Pool


class Study(Description):
    """A question, the runs that answer it, and how they are compared.

    recipes: recipes by name or path, each with its own changes. changes: for all runs. changes_for: for the recipes whose
        names match a pattern, such as "*-ipc10", or one of several, "mtt/*, tesla/*"; a later entry counts more than an
        earlier one, and a recipe's own changes count most. All by dotted key; settings of a plug-in count only in arms that
        name that plug-in.
    arms: what is compared, by label: changes of each. axes: dotted keys and the values to try; every combination is
        another arm, with the changes of ``along``.
    against: the arm the others are compared with, paired by seed.
    seeds: how many; ``seed`` is the first. A seed determines the run and its students.
    trials: students of each kind for each run; students: their networks, by default the run's own.
    judges: teachers that take no part in distillation and measure how well they recognize the sets, at ``snapshots``
        equally spaced iterations besides the first.
    figure: how the page draws it: "line" and "epochs" over the values of the axis, "bars" by arm, "heat": gain by
        recipe and arm, "matrix": arm by student.
    """

    question: str
    recipes: dict[str, dict[str, Any]] = Field(min_length=1)
    changes: dict[str, Any] = Field(default_factory=dict)
    changes_for: dict[str, dict[str, Any]] = Field(default_factory=dict)
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict)
    axes: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    along: dict[str, Any] = Field(default_factory=dict)
    against: str = ""
    seeds: int = Field(default=5, ge=1, le=10_000)
    seed: int = Field(default=0, ge=0)
    trials: int = Field(default=5, ge=1)
    students: tuple[Architecture, ...] = ()
    split: Literal["test", "validation"] = "test"
    judges: Pool | None = None
    snapshots: int = Field(default=4, ge=1)
    controls: bool = False
    figure: Literal["line", "epochs", "bars", "heat", "matrix"] = "bars"

    @field_validator("recipes", "changes_for", "arms", mode="before")
    @classmethod
    def _flat_tables(cls, tables: Any) -> Any:
        if not isinstance(tables, Mapping):
            return tables
        return {name: leaves(table) if isinstance(table, Mapping) else table for name, table in tables.items()}

    @field_validator("changes", "along", mode="before")
    @classmethod
    def _flat(cls, table: Any) -> Any:
        return leaves(table) if isinstance(table, Mapping) else table

    @field_validator("axes", mode="before")
    @classmethod
    def _lists(cls, table: Any) -> Any:
        flat = leaves(table) if isinstance(table, Mapping) else {}
        if wrong := [key for key, values in flat.items() if not isinstance(values, (list, tuple)) or not values]:
            raise ValueError(f"axes.{wrong[0]}: expected a list of the values to try, got {flat[wrong[0]]!r}")
        return flat

    @model_validator(mode="after")
    def _can_be_told_apart(self) -> Self:
        labels = [*self.arms, *(label for label, _ in self._combinations())]
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(f"two arms are called {twice[0]!r}; leave out the duplicate value, or rename the arm")
        tables = {"changes": self.changes, "along": self.along, "axes": self.axes, **{f"arms.{name}": arm for name, arm in
                  self.arms.items()}, **{f"recipes.{name}": own for name, own in self.recipes.items()},
                  **{f"changes_for.{pattern}": own for pattern, own in self.changes_for.items()}}
        idle = [one.strip() for patterns in self.changes_for for one in patterns.split(",")
                if not any(_matches(name, one) for name in self.recipes)]
        if idle:
            raise ValueError(f"changes_for: the pattern {shown(idle[0])} matches no recipe of the study "
                             f"({', '.join(self.recipes)}); mend it, or leave it out")
        if seeded := [name for name, table in tables.items() if "seed" in table]:
            raise ValueError(f"{seeded[0]}.seed: a study sets the seed itself, from its own seed and seeds")
        named = {key.split(".")[1] for table in (self.along, self.axes, *self.arms.values()) for key in table if
                 key.startswith("plugins.") and key.count(".")}
        for name, table in tables.items():
            _see_plugins(name, {key: value for key, value in table.items() if key.split(".")[1:2] and
                                key.split(".")[1] not in named})
        return self

    def usual(self, recipe: str) -> dict[str, Any]:
        """The changes of a recipe in every arm."""
        matching = [own for pattern, own in self.changes_for.items() if _matches(recipe, pattern)]
        return {key: value for table in (self.changes, *matching, self.recipes[recipe]) for key, value in table.items()}

    def points(self) -> dict[str, dict[str, Any]]:
        """All arms by label: those that are named, then every combination of the axes."""
        return {**self.arms, **dict(self._combinations())}

    def _combinations(self) -> list[tuple[str, dict[str, Any]]]:
        texts = {key: _texts(values) for key, values in self.axes.items()}
        found = []
        for places in product(*(range(len(values)) for values in self.axes.values())) if self.axes else ():
            chosen = {key: self.axes[key][place] for key, place in zip(self.axes, places, strict=True)}
            label = ", ".join(f"{key.rpartition('.')[2]} {texts[key][place]}" for key, place in zip(
                self.axes, places, strict=True))
            found.append((label, {**self.along, **chosen}))
        return found

    def values(self) -> dict[str, Any]:
        """The value of the first axis in each arm on that axis, by label."""
        if not self.axes:
            return {}
        first = next(iter(self.axes))
        return {label: changes[first] for label, changes in self._combinations()}


class Cell(NamedTuple):
    """One run of a study and the students it gets."""

    recipe: str
    arm: str
    seed: int
    read: Recipe

    @property
    def name(self) -> str:
        """Digest of what is run and how it is scored."""
        return digest(self.read.run, digest(self.read.protocol))


def _matches(recipe: str, patterns: str) -> bool:
    return any(fnmatchcase(recipe, one.strip()) for one in patterns.split(","))


def _see_plugins(name: str, settings: Mapping[str, Any]) -> None:
    """Check settings of plug-ins that no arm names, which would otherwise go unchecked. Raises ValueError."""
    for label, table in changed({}, {key: value for key, value in settings.items() if key.startswith("plugins.")}).get(
            "plugins", {}).items():
        try:
            load(Plugin, {"kind": label, **table}, f"{name}.plugins.{label}")  # type: ignore[type-abstract]
        except InputError as error:
            raise ValueError(str(error)) from None


def _texts(values: Sequence[Any]) -> list[str]:
    """Values of an axis in short form: networks by name only, if that tells them apart."""
    short = [f"{len(value)} ({', '.join(str(one).partition(':')[0] for one in value)})" if isinstance(value, (list, tuple))
             else str(value) for value in values]
    return short if len(set(short)) == len(short) else [
        ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value) for value in values]


def cells(study: Study) -> list[Cell]:
    """Every run of a study, seeds varying fastest. Raises InputError, for example for an unknown setting."""
    points = study.points()
    if not points:
        raise InputError("the study has nothing to compare; give it arms or axes")
    if study.against and study.against not in points:
        raise InputError(f"against: no arm {study.against!r}; known: {', '.join(points)}")
    found = []
    for name in study.recipes:
        for arm, changes in points.items():
            named = {key.split(".")[1] for key in changes if key.startswith("plugins.") and key.count(".")}
            usual = {key: value for key, value in study.usual(name).items()
                     if not key.startswith("plugins.") or key.split(".")[1] in named}
            for seed in range(study.seed, study.seed + study.seeds):
                try:
                    read = read_recipe(name, changes={**usual, **changes, "seed": seed})
                except InputError as error:
                    raise InputError(f"arm {arm!r} of {name}: {error}") from None
                found.append(Cell(name, arm, seed, read))
    return found
