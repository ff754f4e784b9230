"""The page of a study, and its table as Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import datastill
from datastill.errors import InputError
from datastill.files import make_folder, write_atomically
from datastill.outputs import check_output, is_page
from datastill.report import plots, words
from datastill.sheets import control
from datastill.statistics import difference, statistics
from datastill.study_run import RESULTS

PAGE, TABLE = "index.html", "table.md"
MAPS = {"overlap": "overlap of maps", "common": "overlap where all see something", "empty": "empty maps"}  # see ``Judged``
BAR = "\\|"  # in a cell of a Markdown table


Row = Mapping[str, Any]


class Picture(NamedTuple):
    """A figure and what it shows."""

    title: str
    note: str
    svg: Markup


def check_folder(folder: Path, question: str) -> None:
    """Check that a study may write its files there, before its work. Raises InputError: a file that no study wrote, results
    of a study that asks something else."""
    if is_results(folder / RESULTS) and (other := json.loads((folder / RESULTS).read_bytes())["question"]) != question:
        raise InputError(f"{folder} has the results of another study of this name, {other!r}; rename one of the two files")
    for name, ours in ((RESULTS, is_results), (TABLE, lambda path: is_results(folder / RESULTS)), (PAGE, is_page)):
        check_output(folder / name, "a file of a study", ours, else_="move it away, or choose another --root")


def is_results(path: Path) -> bool:
    """Whether a file has the results of a study."""
    try:
        return {"question", "rows"} <= {*json.loads(path.read_bytes())}
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def write(results: Mapping[str, Any], folder: Path) -> Path:
    """Write the page and the Markdown table of a study into ``folder``; returns the page. Raises InputError."""
    make_folder(folder)
    write_atomically(folder / TABLE, markdown(results).encode())
    write_atomically(folder / PAGE, render(results).encode())
    return folder / PAGE


def render(results: Mapping[str, Any]) -> str:
    """The page as self-contained HTML."""
    seen = judged(results)
    environment = Environment(loader=PackageLoader("datastill.report", "."), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("study.html.jinja").render(
        results=results, words=words, pictures=list(pictures(results)), cells=cells, verdict=verdict,
        teachers=teachers(results), remarks=remarks(results), together=together(results), judged=seen,
        controls=controls(results), harder=harder(results),
        alike=[(title, alike(results, what)) for what, title in MAPS.items()],
        looked=any(line[-1] for line in seen), maps=MAPS, curves=list(curves(results)),
        correlations=list(correlations(results)), version=datastill.__version__)


class Cells(NamedTuple):
    """A row in percent and points: accuracy, gain over random real images and difference, with their intervals."""

    accuracy: str
    gain: str
    gain_interval: str
    difference: str
    interval: str


def cells(row: Mapping[str, Any]) -> Cells:
    """A row of the results as cells."""
    mean, gain, against = row["mean"], row["gain"], row.get("difference")
    return Cells(words.spread(mean, mean["n"]), words.points(gain["mean"]), words.interval(gain),
                 *(("", "") if against is None else (words.points(against["mean"]), words.interval(against))))


def verdict(row: Mapping[str, Any]) -> str:
    """Whether the paired difference of a row is decided, in words."""
    against = row.get("difference")
    if against is None:
        return ""
    if against["decided"]:
        return "higher" if against["mean"] > 0 else "lower"
    needed = against["seeds_needed"]
    return "not decided" + (f" ({needed} seeds)" if needed else " (needs more seeds than can be run)")


def markdown(results: Mapping[str, Any]) -> str:
    """The rows as a Markdown table."""
    against = results["against"]
    head = ["recipe", "arm", "student", "accuracy", "random real", "gain over random"]
    head += [f"vs. {against}", "95 % interval", "by seed", "verdict"] if against else ["95 % interval", "by seed"]
    text = [f"**{results['question']}**", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in results["rows"]:
        cell = cells(row)
        random = words.number(100 * sum(row["random"]) / len(row["random"]))
        line = [row["recipe"], row["arm"], row["student"], cell.accuracy, random, cell.gain]
        if against:
            values = row.get("difference", {}).get("values", [])
            line += [cell.difference, cell.interval, ", ".join(words.points(v) for v in values), verdict(row)]
        else:
            line += [cell.gain_interval, ", ".join(words.number(100 * v) for v in row["accuracy"])]
        text.append(_line(line))
    if groups := together(results):
        more = [f"vs. {against}", "95 % interval", "by seed", "verdict", "students higher", "p over students"]
        more = more if against else []
        text += ["", f"| {' | '.join(['recipe', 'arm', 'students', 'accuracy', *more])} |", "|" + "---|" * (4 + len(more))]
        text += [_line(one if against else one[:4]) for one in groups]
    text += [line for remark in remarks(results) for line in ("", f"Caution: {remark}")]
    if real := controls(results):
        text += ["", "| recipe | student | images and labels | accuracy | by seed | beside |", "|" + "---|" * 6]
        text += map(_line, real)
    if seen := judged(results):
        looked = any(line[-1] for line in seen)
        text += ["", "| recipe | arm | cross-entropy under the judges: start | end | accuracy: start | end | "
                 f"GraDN: start | end |{''.join(f' {title}, %: start | end |' for title in MAPS.values()) * looked}",
                 "|" + "---|" * (8 + 2 * len(MAPS) * looked)]
        text += [_line(line if looked else line[:8]) for line in seen]
    of_maps = ((f"{title}, %,", "points", alike(results, what)) for what, title in MAPS.items())
    for name, unit, changed in (("GraDN", "%", harder(results)), *of_maps):
        if changed:
            text += ["", f"| recipe | arm | {name} at the end | of {against} | change, {unit} | 95 % interval | by seed | "
                     "verdict |", "|" + "---|" * 8]
            text += [_line(one) for one in changed]
    for sentence in correlations(results):
        text += ["", sentence]
    return "\n".join(text) + "\n"


def _line(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def remarks(results: Mapping[str, Any]) -> list[str]:
    """What the sanity floor says, with the rows it says it of."""
    rows: dict[str, list[str]] = {}
    for row in results["rows"]:
        for flag in row["flags"]:
            rows.setdefault(flag, []).append(f"{row['recipe']}, {row['arm']}, {row['student']}")
    count = len(results["rows"])
    return [f"{flag} for at least one seed: {'all rows' if len(of) == count > 1 else '; '.join(of)}"
            for flag, of in rows.items()]


def controls(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """(recipe, student, images and labels, accuracy, by seed, arms they stand beside) of real images that were scored beside
    the sets, under the same labels or others. Arms whose students learn from the same labels share them."""
    beside: dict[tuple[str, str, str, tuple[float, ...]], list[str]] = {}
    for row in results["rows"]:
        for name, accuracy in row.get("controls", {}).items():
            beside.setdefault((row["recipe"], row["student"], name, tuple(accuracy)), []).append(row["arm"])
    every = {recipe: {row["arm"] for row in results["rows"] if row["recipe"] == recipe} for recipe, *_ in beside}
    return [(recipe, student, control(name), words.spread(statistics(accuracy), len(accuracy)),
             ", ".join(words.number(100 * value) for value in accuracy),
             "all arms" if {*arms} == every[recipe] else "; ".join(arms))
            for (recipe, student, name, accuracy), arms in beside.items()]


class Together(NamedTuple):
    """Several kinds of students of an arm: who they are, mean accuracy in percent, then the difference to the arm they are
    compared with in points, its interval, by seed, whether it is decided, how many of the students are better, p."""

    recipe: str
    arm: str
    students: str
    accuracy: str
    difference: str
    interval: str
    by_seed: str
    verdict: str
    higher: str
    p: str


def together(results: Mapping[str, Any]) -> list[Together]:
    """The same for every recipe, arm and group of students."""
    found = []
    for one in results.get("students", ()):  # not in results of earlier versions
        against, count = one.get("difference"), len(one["students"])
        group = f"all {count}" if one["group"] == "all" else f"{count} {one['group']}"
        compared = [""] * 6 if against is None else [
            *_paired(against), verdict(one), f"{one['higher']} of {count}", "" if one["p"] is None else f"{one['p']:.2g}"]
        found.append(Together(one["recipe"], one["arm"], group, words.spread(one["mean"], one["mean"]["n"]), *compared))
    return found


def judged(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """(recipe, arm, then at start and end cross-entropy, accuracy, gradient norm, ``MAPS``) under the judges, means over
    seeds; those of maps are empty for judges of one architecture, and where none of them sees anything."""
    found: list[tuple[str, ...]] = []
    for recipe, arm in dict.fromkeys((run["recipe"], run["arm"]) for run in results["runs"]):
        runs = [run["run"] for run in results["runs"] if (run["recipe"], run["arm"]) == (recipe, arm) and run["run"]]
        if runs:
            def mean(what: str, at: int, of: list[Any] = runs) -> float:
                return float(np.mean([run[at][what] for run in of]))
            maps = [words.number(100 * mean(what, at)) if all(run[at].get(what) is not None for run in runs) else ""
                    for what in MAPS for at in (0, -1)]
            found.append((recipe, arm, f"{mean('cross_entropy', 0):.2f}", f"{mean('cross_entropy', -1):.2f}",
                          words.number(100 * mean("accuracy", 0)), words.number(100 * mean("accuracy", -1)),
                          f"{mean('gradn', 0):.3g}", f"{mean('gradn', -1):.3g}", *maps))
    return found


class Change(NamedTuple):
    """What judges measured of the finished sets of an arm, beside those of the arm it is compared with: both values, the
    change with its interval, paired by seed, changes by seed, whether it is decided."""

    recipe: str
    arm: str
    value: str
    other: str
    change: str
    interval: str
    by_seed: str
    verdict: str


def harder(results: Mapping[str, Any]) -> list[Change]:
    """How hard finished sets are for the judges: gradient norms, with changes of geometric means in percent."""
    found = []
    for recipe, arm, one, other in _pairs(results, "gradn"):
        if not min(*one, *other):
            continue
        compared = difference([math.log(a / b) for a, b in zip(one, other, strict=True)])
        low, high = (100 * math.expm1(compared[end]) if end in compared else None for end in ("low", "high"))
        found.append(Change(
            recipe, arm, f"{np.mean(one):.3g}", f"{np.mean(other):.3g}", words.points(math.expm1(compared["mean"])),
            "" if low is None or high is None else f"{words.number(low)} to {words.number(high)}",
            ", ".join(words.points(math.expm1(value)) for value in compared["values"]), _moves(compared)))
    return found


def alike(results: Mapping[str, Any], what: str) -> list[Change]:
    """What the maps of the judges, of several architectures, have in common in finished sets: one of ``MAPS``, with changes
    in points."""
    found = []
    for recipe, arm, one, other in _pairs(results, what):
        compared = difference([a - b for a, b in zip(one, other, strict=True)])
        found.append(Change(
            recipe, arm, words.number(100 * float(np.mean(one))), words.number(100 * float(np.mean(other))),
            *_paired(compared), _moves(compared)))
    return found


def _pairs(results: Mapping[str, Any], what: str) -> Iterator[tuple[str, str, list[float], list[float]]]:
    """(recipe, arm, by seed what the judges measured at the end, that of the arm it is compared with)."""
    against = results["against"]
    last = {(run["recipe"], run["arm"], run["seed"]): run["run"][-1][what] for run in results["runs"]
            if run["run"] and run["run"][-1].get(what) is not None}  # not in results of earlier versions
    for recipe, arm in dict.fromkeys((run["recipe"], run["arm"]) for run in results["runs"]):
        seeds = [seed for seed in results["seeds"] if {(recipe, arm, seed), (recipe, against, seed)} <= set(last)]
        if arm != against and seeds:
            one, other = ([last[recipe, which, seed] for seed in seeds] for which in (arm, against))
            yield recipe, arm, one, other


def _paired(compared: Mapping[str, Any]) -> tuple[str, str, str]:
    """Paired differences of fractions in points: mean, interval, by seed."""
    return words.points(compared["mean"]), words.interval(compared), ", ".join(map(words.points, compared["values"]))


def _moves(compared: Mapping[str, Any]) -> str:
    return "not decided" if not compared["decided"] else "falls" if compared["mean"] < 0 else "rises"


def curves(results: Mapping[str, Any]) -> Iterator[Picture]:
    """Gradient norm of the sets along the runs under the judges, mean over seeds, a picture for each recipe and a line for
    each arm."""
    for number, recipe in enumerate(dict.fromkeys(run["recipe"] for run in results["runs"])):
        arms: dict[str, dict[int, list[float]]] = {}
        for run in (one for one in results["runs"] if one["recipe"] == recipe):
            for step in run["run"]:
                if step.get("gradn"):
                    arms.setdefault(run["arm"], {}).setdefault(step["iteration"], []).append(step["gradn"])
        if any(len(steps) > 1 for steps in arms.values()):
            lines = {arm: [(iteration, float(np.mean(values))) for iteration, values in sorted(steps.items())]
                     for arm, steps in arms.items()}
            yield Picture(recipe, "gradient norm of the set (GraDN) under the judges by iteration, mean over seeds",
                          plots.along(lines, f"c{number}"))


def correlations(results: Mapping[str, Any]) -> Iterator[str]:
    """Rank correlation of the judges' cross-entropy with accuracy, a sentence for each recipe and student."""
    for recipe, students in results["correlation"].items():
        for student, found in students.items():
            one = found.get("cross_entropy")
            if one:
                yield (f"{recipe}, {student}: over {one['n']} runs, the rank correlation of the judges' final cross-entropy "
                       f"with accuracy is {one['spearman']['value']:+.2f} (Spearman, p {one['spearman']['p']:.2g}), "
                       f"{one['kendall']['value']:+.2f} (Kendall).")


def teachers(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every teacher used in the study, by name."""
    found = {}
    for run in results["runs"]:
        for one in run["teachers"]:
            seed = f", seed {one['seed']}" if "seed" in one else ""
            found[f"{one['network']}{seed}, epoch {one['epoch']}, {one['digest']}"] = one
    return found


def pictures(results: Mapping[str, Any]) -> Iterator[Picture]:
    """The study's figures, one for each kind of student."""
    students = list(dict.fromkeys(row["student"] for row in results["rows"]))
    recipes = list(dict.fromkeys(row["recipe"] for row in results["rows"]))
    arms = list(dict.fromkeys(row["arm"] for row in results["rows"]))
    if results["figure"] == "matrix":
        for i, recipe in enumerate(recipes):
            values = np.array([[_mean(results, recipe, arm, student) for student in students] for arm in arms])
            yield Picture(recipe, "mean accuracy in %, arm by student", plots.table(arms, students, values, f"m{i}"))
        return
    for i, student in enumerate(students):
        if results["figure"] == "heat":
            others = [arm for arm in arms if arm != results["against"]]
            values = np.array([[_mean(results, recipe, arm, student, "difference" if results["against"] else "gain")
                                for recipe in recipes] for arm in others])
            note = (f"difference from {results['against']} in points" if results["against"] else
                    "gain over random real images")
            yield Picture(student, note, plots.table(others, recipes, values, f"h{i}"))
        elif results["figure"] in ("line", "epochs") and results["axes"]:
            known = _teacher_accuracy(results) if results["figure"] == "epochs" else None
            note = "mean and 95 % interval over seeds"
            note += f"; dashed: {results['against']}" if results["against"] else ""
            note += "; dotted: teachers' accuracy on held-out training images" if known else ""
            yield Picture(student, note, plots.lines(results, student, f"l{i}", known))
        else:
            yield Picture(student, "mean and 95 % interval over seeds", plots.bars(results, student, f"b{i}"))


def _mean(results: Mapping[str, Any], recipe: str, arm: str, student: str, what: str = "mean") -> float:
    rows = [row for row in results["rows"] if (row["recipe"], row["arm"], row["student"]) == (recipe, arm, student)]
    row: Row = rows[0] if rows else {}
    return 100 * row[what]["mean"] if what in row else float("nan")


def _teacher_accuracy(results: Mapping[str, Any]) -> dict[str, float]:
    """Mean accuracy of the teachers of each arm on the axis, if it was measured."""
    found = {}
    for label in results["axes"]:
        known = [one["accuracy"] for run in results["runs"] if run["arm"] == label for one in run["teachers"]
                 if one.get("accuracy") is not None]
        if known:
            found[label] = float(np.mean(known))
    return found
