"""Studies: a base, what is varied, and paired comparisons by seed. A study runs only what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, field_validator
from scipy import stats

from datastill import artefact
from datastill.analysis.judging import judge, rank_correlation
from datastill.config import Description, digest, leaves, spec
from datastill.data import Data, Splits
from datastill.errors import InputError
from datastill.files import make_folder, write_json
from datastill.jobs import carry_out as in_jobs
from datastill.nets import Architecture
from datastill.plan import plan
from datastill.recipes import Recipe, read_recipe
from datastill.run import check, distill
from datastill.scoring import check as check_student
from datastill.scoring import score, statistics
from datastill.teachers import Pool
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
    judges: teachers that take no part in distillation and tell how well they recognise the sets; judged at ``snapshots``
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
        return {name: leaves(table) for name, table in tables.items()} if isinstance(tables, Mapping) else tables

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

    def points(self) -> dict[str, dict[str, Any]]:
        """All arms by label: those that are named, then every combination of the axes."""
        found = dict(self.arms)
        for values in product(*self.axes.values()) if self.axes else ():
            chosen = dict(zip(self.axes, values, strict=True))
            label = ", ".join(f"{key.rpartition('.')[2]} {shown(value)}" for key, value in chosen.items())
            found[label] = {**self.along, **chosen}
        return found

    def values(self) -> dict[str, Any]:
        """The value of the first axis in each arm that lies on it, by label."""
        if not self.axes:
            return {}
        labels = list(self.points())[len(self.arms):]
        return {label: values[0] for label, values in zip(labels, product(*self.axes.values()), strict=True)}


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


def shown(value: Any) -> str:
    """A value of an axis in few words: a list of networks by their names."""
    if isinstance(value, (list, tuple)):
        return f"{len(value)} ({', '.join(str(one).partition(':')[0] for one in value)})"
    return str(value)


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
    """See that every run fits its data and every student its images. Raises InputError naming the arm."""
    seen = set()
    for cell in found:
        run = cell.read.run
        if (key := digest(run.model_copy(update={"seed": 0}))) in seen:
            continue
        seen.add(key)
        splits = _splits(run.data, place.data_root)
        try:
            check(run, run.task(splits.train, root=place.root, data_root=place.data_root))
            for student in study.students or (run.network,):
                check_student(student, _images(splits, study.split))
        except InputError as error:
            raise InputError(f"arm {cell.arm!r} of {cell.recipe}: {error}") from None


def pools(study: Study, found: Sequence[Cell]) -> list[tuple[Pool, Cell]]:
    """Every pool of teachers the study needs, with a run it is for; a larger pool holds the teachers of smaller ones."""
    needed = {(pool, cell.read.run.data): cell for cell in found
              for pool in (*cell.read.run.pools(), *([study.judges] if study.judges else []))}
    return [(pool, cell) for (pool, _), cell in needed.items()]


class Foreseen(NamedTuple):
    """What a study will take: runs by arm, how many are still to be made, seconds of one with its students; seconds to train
    the teachers that are missing."""

    arms: list[tuple[str, str, int, int, float]]  # recipe, arm, runs, missing, seconds of each
    teachers: float


def foresee(study: Study, place: Place) -> Foreseen:
    """Rehearse one run of every arm that is not finished; nothing is written. Raises InputError as ``carry_out``."""
    found = cells(study)
    check_all(study, found, place)
    arms = []
    training = {}
    for recipe, arm in dict.fromkeys((cell.recipe, cell.arm) for cell in found):
        own = [cell for cell in found if (cell.recipe, cell.arm) == (recipe, arm)]
        missing = [cell for cell in own if not (_folder(cell, place) / artefact.CARD).exists()]
        seconds = 0.0
        if missing:
            run, protocol = missing[0].read.run, missing[0].read.protocol
            task = run.task(_splits(run.data, place.data_root).train.to(place.device), root=place.root,
                            data_root=place.data_root)
            for pool in run.pools():
                for group, number in product(range(len(pool.networks)), range(pool.size)):
                    alone = pool.alone(group, number)
                    if alone not in training:
                        training[alone] = alone.seconds(task.context)
            students = [plan(run, task, protocol, student) for student in study.students or (run.network,)]
            seconds = students[0].distill + sum(2 * study.trials * one.student for one in students)
        arms.append((recipe, arm, len(own), len(missing), seconds))
    return Foreseen(arms, sum(training.values()))


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
    distill(run, task, folder, keep=range(0, run.method.iterations + 1, every), about=cell.read.about())
    distilled = artefact.load(folder).to(place.device)
    images = _images(splits, study.split).to(place.device)
    scores = {}
    for student in study.students or (run.network,):
        sheet = score(folder, distilled, cell.read.protocol, student, splits.train, images, split=study.split,
                      trials=study.trials, seed=cell.seed, baselines=place.root / "baselines")
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
        raise InputError("split is validation, but no images are kept apart; set data.validation=0.1, say")
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
        runs = [one for one in judged if one["recipe"] == recipe and one["run"]]
        for student in runs[0]["accuracy"] if runs else ():
            scores = [one["accuracy"][student] for one in runs]
            for what in ("cross_entropy", "accuracy"):
                if measured := rank_correlation([one["run"][-1][what] for one in runs], scores):
                    found.setdefault(recipe, {}).setdefault(student, {})[what] = measured
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
