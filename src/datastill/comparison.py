"""The results of a study: rows of scores, compared in pairs by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datastill.digest import digest
from datastill.statistics import average, difference, rank_correlation, signed_rank, statistics
from datastill.study import Cell, Study


def compare(study: Study, found: Sequence[Cell], outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows by recipe, arm and kind of student: accuracy by seed (mean over trials), and the difference to the arm
    ``against``, paired by seed; that of real images under the same labels and others; the same over kinds of students; what
    the judges measured, and its rank correlation with accuracy over all runs."""
    by = {(cell.recipe, cell.arm, cell.seed): outcome for cell, outcome in zip(found, outcomes, strict=True)}
    seeds = list(range(study.seed, study.seed + study.seeds))
    rows = []
    for recipe, arm in dict.fromkeys((cell.recipe, cell.arm) for cell in found):
        of_seed = [by[recipe, arm, seed] for seed in seeds]
        for student in of_seed[0]["scores"]:
            accuracy, random = ([average(one["scores"][student][subject]) for one in of_seed] for subject in
                                ("synthetic", "random"))
            row = {"recipe": recipe, "arm": arm, "student": student, "accuracy": accuracy, "random": random,
                   "mean": statistics(accuracy), "gain": statistics([a - b for a, b in zip(accuracy, random, strict=True)]),
                   "flags": sorted({flag for one in of_seed for flag in one["scores"][student]["flags"]})}
            if controls := of_seed[0]["scores"][student].get("controls"):
                row["controls"] = {name: [average(one["scores"][student]["controls"][name]) for one in of_seed]
                                   for name in controls}
            if study.against and arm != study.against:
                other = [average(by[recipe, study.against, seed]["scores"][student]["synthetic"]) for seed in seeds]
                row["difference"] = difference([a - b for a, b in zip(accuracy, other, strict=True)])
            rows.append(row)
    judged = [{"recipe": cell.recipe, "arm": cell.arm, "seed": cell.seed, "folder": one["folder"], "run": one["judged"],
               "teachers": one["teachers"], "accuracy": {name: average(s["synthetic"]) for name, s in one["scores"].items()}}
              for cell, one in zip(found, outcomes, strict=True)]
    return {"schema": 1, "question": study.question, "digest": digest(study), "against": study.against,
            "split": study.split, "figure": study.figure, "axes": study.values(), "seeds": seeds, "trials": study.trials,
            "rows": rows, "students": _over_students(study, found, rows), "runs": judged,
            "correlation": _correlations(judged)}


def _over_students(study: Study, found: Sequence[Cell], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows by recipe, arm and group of students: accuracy by seed, mean over the students, and the difference, paired by
    seed; ``higher``, the students whose own mean difference is above 0, and p of a test over them
    (``statistics.signed_rank``).

    The groups are all students, those whose architecture a run of any arm has seen, and the others.
    """
    results = []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        had = {name for cell in found if cell.recipe == recipe for name in cell.read.run.architectures()}
        every = list(dict.fromkeys(row["student"] for row in own))
        known = [name for name in every if name in had]
        parts = {"all": every, "seen": known, "unseen": [name for name in every if name not in had]}
        for arm in dict.fromkeys(row["arm"] for row in own):
            for group, names in parts.items():
                if len(every) > 1 and names and (group == "all" or len(names) < len(every)):
                    some = [row for row in own if row["arm"] == arm and row["student"] in names]
                    results.append({"recipe": recipe, "arm": arm, "group": group, "students": names, **_together(some)})
    return results


def _together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    accuracy = [average(values) for values in zip(*(row["accuracy"] for row in rows), strict=True)]
    found: dict[str, Any] = {"accuracy": accuracy, "mean": statistics(accuracy)}
    if "difference" in rows[0]:
        found["difference"] = difference([average(values) for values in zip(
            *(row["difference"]["values"] for row in rows), strict=True)])
        means = [row["difference"]["mean"] for row in rows]
        found |= {"higher": sum(mean > 0 for mean in means), "p": signed_rank(means)}
    return found


def _correlations(judged: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Correlations of the last cross-entropy and accuracy under the judges with each student's accuracy, by recipe."""
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
