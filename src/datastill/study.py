"""Studies: a base, what is varied, and paired comparisons by seed. A study runs only what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, field_validator, model_validator
from scipy import stats

from datastill import artifact
from datastill.analysis.judging import check_judges, judge, rank_correlation
from datastill.core import Plugin
from datastill.data import Data, Splits
from datastill.description import Description, load
from datastill.digest import digest, spec
from datastill.errors import InputError
from datastill.files import make_folder, write_json
from datastill.jobs import carry_out as in_jobs
from datastill.nets import Architecture
from datastill.plan import plan
from datastill.recipes import Recipe, read_recipe
from datastill.run import Run, check, check_protocol, distill, labeler
from datastill.scoring import check as check_student
from datastill.scoring import statistics
from datastill.sheets import score, scored
from datastill.tables import changed, leaves
from datastill.teachers import Context, Pool
from datastill.teachers.making import make

Follow = Callable[[str, int, int], None]  # (stage, done, of how many)
MOST = 10_000  # seeds; beyond, a difference is called too small to be decided


class Study(Description):
    """A question, the runs that answer it, and how they are compared.

    recipes: recipes by name or path, each with changes for it alone. changes: for all runs. Both by dotted key; settings of
        a plug-in count only in arms that name that plug-in.
    arms: what is compared, by label: changes of each. axes: dotted keys and the values to try; every combination is an arm
        more, with the changes of ``along``.
    against: the arm the others are compared with, paired by seed.
    seeds: how many; ``seed`` is the first. A seed decides the run and its students.
    trials: students of each kind for each run; students: their networks, the run's own unless given.
    judges: teachers that take no part in distillation and tell how well they recognize the sets; judged at ``snapshots``
        equally spaced iterations beside the first.
    figure: how the page draws it: "line" and "epochs" over the values of the axis, "bars" by arm, "heat": gain by
        recipe and arm, "matrix": arm by student.
    """

    question: str
    recipes: dict[str, dict[str, Any]] = Field(min_length=1)
    changes: dict[str, Any] = Field(default_factory=dict)
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
    figure: Literal["line", "epochs", "bars", "heat", "matrix"] = "bars"

    @field_validator("recipes", "arms", mode="before")
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
            raise ValueError(f"two arms are called {twice[0]!r}; leave out the value that stands twice, or rename the arm")
        tables = {"changes": self.changes, "along": self.along, "axes": self.axes, **{f"arms.{name}": arm for name, arm in
                  self.arms.items()}, **{f"recipes.{name}": own for name, own in self.recipes.items()}}
        if seeded := [name for name, table in tables.items() if "seed" in table]:
            raise ValueError(f"{seeded[0]}.seed: a study sets the seed itself, by its own seed and seeds")
        named = {key.split(".")[1] for table in (self.along, self.axes, *self.arms.values()) for key in table if
                 key.startswith("plugins.") and key.count(".")}
        for name, table in tables.items():
            _see_plugins(name, {key: value for key, value in table.items() if key.split(".")[1:2] and
                                key.split(".")[1] not in named})
        return self

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
        """The value of the first axis in each arm that lies on it, by label."""
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
        """Of what is run and how it is scored."""
        return digest(self.read.run, digest(self.read.protocol))


class Place(NamedTuple):
    """Where a study works: folders for results and data, the device."""

    root: Path
    data_root: Path
    device: torch.device = torch.device("cpu")


def _see_plugins(name: str, settings: Mapping[str, Any]) -> None:
    """Check that settings of plug-ins which no arm names, so that they count nowhere, could count. Raises ValueError."""
    for label, table in changed({}, {key: value for key, value in settings.items() if key.startswith("plugins.")}).get(
            "plugins", {}).items():
        try:
            load(Plugin, {"kind": label, **table}, f"{name}.plugins.{label}")  # type: ignore[type-abstract]
        except InputError as error:
            raise ValueError(str(error)) from None


def _texts(values: Sequence[Any]) -> list[str]:
    """Values of an axis in few words: networks by their names alone, where that tells them apart."""
    short = [f"{len(value)} ({', '.join(str(one).partition(':')[0] for one in value)})" if isinstance(value, (list, tuple))
             else str(value) for value in values]
    return short if len(set(short)) == len(short) else [
        ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value) for value in values]


def cells(study: Study) -> list[Cell]:
    """Every run of a study, seeds varying fastest. Raises InputError for a setting that names no field, and the like."""
    points = study.points()
    if not points:
        raise InputError("the study has nothing to compare; give it arms or axes")
    if study.against and study.against not in points:
        raise InputError(f"against: no arm {study.against!r}; known: {', '.join(points)}")
    found = []
    for name, own in study.recipes.items():
        for arm, changes in points.items():
            named = {key.split(".")[1] for key in changes if key.startswith("plugins.") and key.count(".")}
            usual = {key: value for key, value in {**study.changes, **own}.items()
                     if not key.startswith("plugins.") or key.split(".")[1] in named}
            for seed in range(study.seed, study.seed + study.seeds):
                try:
                    read = read_recipe(name, changes={**usual, **changes, "seed": seed})
                except InputError as error:
                    raise InputError(f"arm {arm!r} of {name}: {error}") from None
                found.append(Cell(name, arm, seed, read))
    return found


def carry_out(study: Study, place: Place, folder: Path, *, jobs: int = 1,
              follow: Follow = lambda *told: None) -> dict[str, Any]:
    """Run what is missing: teachers, then runs with their students. Returns the results and writes them to ``folder``.

    Runs lie in ``root/runs`` and are shared by all studies. Raises InputError before any work; RunError, with what was
    finished kept.
    """
    found = cells(study)
    follow("check", 0, 1)
    check_all(study, found, place)
    for pool, cell in pools(study, found):
        make(pool, cell.read.run.data, place.root, place.data_root, place.device, jobs, partial(follow, "teachers"))
    alone = {cell.name: cell for cell in found}  # arms may share a run
    made = in_jobs(partial(_carry_out, study, place), list(alone.values()), jobs, partial(follow, "runs"))
    outcome = dict(zip(alone, made, strict=True))
    outcomes = [outcome[cell.name] for cell in found]
    results = compare(study, found, outcomes)
    make_folder(folder)
    write_json(folder / "results.json", results)
    return results


def check_all(study: Study, found: Sequence[Cell], place: Place) -> None:
    """Check that every run fits its data and every student its images. Raises InputError naming the arm."""
    seen = set()
    for cell in found:
        run = cell.read.run
        if (key := digest(run.model_copy(update={"seed": 0}))) in seen:
            continue
        seen.add(key)
        splits = _splits(run.data, place.data_root)
        try:
            task = run.task(splits.train, root=place.root, data_root=place.data_root)
            check(run, task)
            check_protocol(run, cell.read.protocol)
            for student in study.students or (run.network,):
                check_student(student, _images(splits, study.split))
            if study.judges is not None:
                check_judges(study.judges, task.context)
                _see_apart(study.judges, run, task.context)
        except InputError as error:
            raise InputError(f"arm {cell.arm!r} of {cell.recipe}: {error}") from None


def _see_apart(judges: Pool, run: Run, context: Context) -> None:
    """Check that no judge takes part in the run. Raises InputError."""
    asked = {where for pool in run.pools() for where in pool.places(context)}
    if both := [where for where in judges.places(context) if where in asked]:
        raise InputError(f"judges: the teacher in {both[0]} guides the run too, so that it would judge its own work; give "
                         "the judges another seed")


def pools(study: Study, found: Sequence[Cell]) -> list[tuple[Pool, Cell]]:
    """Every pool of teachers the study needs, with a run it is for; a larger pool holds the teachers of smaller ones."""
    needed = {(pool, cell.read.run.data): cell for cell in found
              for pool in (*cell.read.run.pools(), *([study.judges] if study.judges else []))}
    return [(pool, cell) for (pool, _), cell in needed.items()]


class Foreseen(NamedTuple):
    """What a study will take: by recipe and arm how many runs it has, how many are still to be made, how many students of
    runs, and the seconds that takes; seconds to train the teachers that are missing."""

    arms: list[tuple[str, str, int, int, int, float]]
    teachers: float


def foresee(study: Study, place: Place) -> Foreseen:
    """Try one run of every arm that is not finished; nothing is written. Raises InputError as ``carry_out``."""
    found = cells(study)
    check_all(study, found, place)
    arms = []
    training: dict[Path, float] = {}
    for recipe, arm in dict.fromkeys((cell.recipe, cell.arm) for cell in found):
        own = [cell for cell in found if (cell.recipe, cell.arm) == (recipe, arm)]
        there = [cell for cell in own if (_folder(cell, place) / artifact.CARD).exists()]
        missing = len(own) - len(there)
        kinds = study.students or (own[0].read.run.network,)
        wanted = [missing * study.trials + sum(_unscored(study, place, cell, one) for cell in there) for one in kinds]
        run, protocol = own[0].read.run, own[0].read.protocol
        images = _splits(run.data, place.data_root).train.to(place.device)
        task = run.task(images, root=place.root, data_root=place.data_root)
        for pool in (*run.pools(), *([study.judges] if study.judges else [])):
            members = product(range(len(pool.networks)), range(pool.size))
            for member, where in zip(members, pool.places(task.context), strict=False):
                if where not in training:
                    training[where] = pool.alone(*member).seconds(task.context)
        seconds = 0.0
        if any(wanted):
            plans = [plan(run, task, protocol, student) for student in kinds]
            scoring = sum(2 * count * one.student for count, one in zip(wanted, plans, strict=True))
            seconds = missing * plans[0].distill + scoring
        arms.append((recipe, arm, len(own), missing, sum(wanted), seconds))
    return Foreseen(arms, sum(training.values()))


def _unscored(study: Study, place: Place, cell: Cell, student: Architecture) -> int:
    """How many students of this kind a finished run still lacks."""
    run = cell.read.run
    splits = _splits(run.data, place.data_root)
    folder = _folder(cell, place)
    return max(0, study.trials - scored(folder, artifact.load(folder), cell.read.protocol, student, splits.train,
                                        _images(splits, study.split), split=study.split, seed=cell.seed))


def _folder(cell: Cell, place: Place) -> Path:
    run = cell.read.run
    return place.root / "runs" / run.label(_splits(run.data, place.data_root).train, place.data_root)


def _carry_out(study: Study, place: Place, cell: Cell) -> dict[str, Any]:
    """One run, its students, and what the judges say of it."""
    run = cell.read.run
    splits = _splits(run.data, place.data_root)
    splits = splits._replace(train=splits.train.to(place.device))
    task = run.task(splits.train, root=place.root, data_root=place.data_root)
    folder = _folder(cell, place)
    every = max(1, run.method.iterations // study.snapshots)
    distill(run, task, folder, wait=True, keep=range(0, run.method.iterations + 1, every), about=cell.read.about())
    distilled = artifact.load(folder).to(place.device)
    images = _images(splits, study.split).to(place.device)
    scores = {}
    labels = labeler(run, task) if distilled.card["labels"] == "soft" else None
    for student in study.students or (run.network,):
        sheet = score(folder, distilled, cell.read.protocol, student, splits.train, images, split=study.split,
                      trials=study.trials, seed=cell.seed, baselines=place.root / "baselines", labeler=labels)
        scores[spec(student)] = {subject: [one["accuracy"] for one in sheet[subject]][:study.trials]
                                 for subject in ("synthetic", "random")} | {"flags": sheet["flags"]}
    prepared = distilled.card.get("prepared", {})
    judged = [] if study.judges is None else [one._asdict() for one in judge(folder, run, task.teachers(study.judges))]
    return {"folder": folder.name, "scores": scores, "judged": judged,
            "teachers": [teacher for facts in prepared.values() for teacher in facts.get("teachers", [])]}


@lru_cache(maxsize=2)
def _splits(data: Data, root: Path) -> Splits:
    return data.load(root)


def _images(splits: Splits, split: str) -> Any:
    if split == "validation" and splits.validation is None:
        raise InputError("split is validation, but no images are held out; set data.validation=0.1, say")
    return splits.test if split == "test" else splits.validation


# --- what came of it ---------------------------------------------------------------------------------------------------


def compare(study: Study, found: Sequence[Cell], outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows by recipe, arm and kind of student: accuracy by seed (mean over trials), and the difference to the arm
    ``against``, paired by seed; what judges said; their rank correlation with accuracy over all runs."""
    by = {(cell.recipe, cell.arm, cell.seed): outcome for cell, outcome in zip(found, outcomes, strict=True)}
    seeds = list(range(study.seed, study.seed + study.seeds))
    rows = []
    for recipe, arm in dict.fromkeys((cell.recipe, cell.arm) for cell in found):
        of_seed = [by[recipe, arm, seed] for seed in seeds]
        for student in of_seed[0]["scores"]:
            accuracy, random = ([_mean(one["scores"][student][subject]) for one in of_seed] for subject in
                                ("synthetic", "random"))
            row = {"recipe": recipe, "arm": arm, "student": student, "accuracy": accuracy, "random": random,
                   "mean": statistics(accuracy), "gain": statistics([a - b for a, b in zip(accuracy, random, strict=True)]),
                   "flags": sorted({flag for one in of_seed for flag in one["scores"][student]["flags"]})}
            if study.against and arm != study.against:
                other = [_mean(by[recipe, study.against, seed]["scores"][student]["synthetic"]) for seed in seeds]
                row["difference"] = difference([a - b for a, b in zip(accuracy, other, strict=True)])
            rows.append(row)
    judged = [{"recipe": cell.recipe, "arm": cell.arm, "seed": cell.seed, "folder": one["folder"], "run": one["judged"],
               "teachers": one["teachers"], "accuracy": {name: _mean(s["synthetic"]) for name, s in one["scores"].items()}}
              for cell, one in zip(found, outcomes, strict=True)]
    return {"schema": 1, "question": study.question, "digest": digest(study), "against": study.against,
            "split": study.split, "figure": study.figure, "axes": study.values(), "seeds": seeds, "trials": study.trials,
            "rows": rows, "runs": judged, "correlation": _correlations(judged)}


def difference(values: Sequence[float]) -> dict[str, Any]:
    """Paired differences (fractions): statistics, whether the 95 % interval excludes 0, and if not how many seeds of the
    same mean and spread would."""
    found: dict[str, Any] = {**statistics(values), "values": list(values)}
    found["decided"] = found["n"] > 1 and (found["low"] > 0 or found["high"] < 0)
    found["seeds_needed"] = found["n"] if found["decided"] else seeds_needed(found["mean"], found["std"])
    return found


def seeds_needed(mean: float, std: float) -> int | None:
    """The fewest pairs of this mean and spread whose 95 % interval excludes 0; None where there are too many."""
    if mean == 0:
        return None
    return next((n for n in range(2, MOST) if stats.t.ppf(0.975, n - 1) * std / math.sqrt(n) < abs(mean)), None)


def _correlations(judged: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the last cross-entropy and accuracy under the judges with each student's accuracy, by recipe."""
    found: dict[str, Any] = {}
    for recipe in dict.fromkeys(one["recipe"] for one in judged):
        apart = {one["folder"]: one for one in judged if one["recipe"] == recipe and one["run"]}  # arms may share a run
        runs = list(apart.values())
        for student in runs[0]["accuracy"] if runs else ():
            scores = [one["accuracy"][student] for one in runs]
            for what in ("cross_entropy", "accuracy"):
                if measured := rank_correlation([one["run"][-1][what] for one in runs], scores):
                    found.setdefault(recipe, {}).setdefault(student, {})[what] = measured
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
