"""What the command line shows: progress, tables, descriptions."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Display
from rich.table import Column, Table
from rich.text import Text

from datastill.core import Protocol
from datastill.data import Splits
from datastill.description import load
from datastill.digest import dump, spec
from datastill.errors import Stopped, one_line
from datastill.progress import Progress
from datastill.registry import kind
from datastill.scoring import guessing
from datastill.sheets import CONTROLS, MAY_NOT, RULES, control, imbalance
from datastill.statistics import statistics
from datastill.tables import counted, leaves, per_class

out = Console(soft_wrap=False)
err = Console(stderr=True)
LINE_EVERY = 30.0  # seconds between progress lines if the output is not a terminal


class Bar(Progress):
    """Shows the progress of long work: a bar on a terminal, an occasional line elsewhere.

    stop: set this to an exit code to stop the work with that code when it next reports progress.
    """

    def __init__(self, display: Display | None, task: Any, name: str) -> None:
        self.display, self.task, self.name = display, task, name
        self.stop: int | None = None
        self.began = self.told = self.last = time.monotonic()
        self.first = 0
        self.at = (0, 0)  # last report: done, of

    def tell(self, done: int, of: int, note: str = "") -> None:
        """``done`` of ``of`` steps; ``note`` is shown after it. A different number of steps, or fewer done than before,
        means a new piece of work: the time left is estimated from scratch. Raises Stopped if a stop was requested."""
        self._show(done, of, note)
        self.check()

    def check(self) -> None:
        """Raise Stopped if a stop was requested."""
        if self.stop is not None:
            raise Stopped(code=self.stop)

    def _show(self, done: int, of: int, note: str) -> None:
        now, fresh = time.monotonic(), of != self.at[1] or done < self.at[0]
        if fresh:
            self.began, self.first = self.last, done - 1
        self.last, self.at = now, (done, of)
        if self.display is not None:
            if fresh:
                self.display.reset(self.task, total=of)
            self.display.update(self.task, completed=done, total=of, note=escape(note))
            return
        if now - self.told >= LINE_EVERY:
            self.told = now
            left = (now - self.began) / max(1, done - self.first) * (of - done)
            parts = filter(None, (f"{done} of {of}", note, f"about {duration(left)} left" if left >= 1 else ""))
            print(f"{self.name}: {', '.join(parts)}", file=sys.stderr, flush=True)


def caution(text: str) -> None:
    """Print a warning on standard error."""
    err.print(f"[yellow]caution:[/] {escape(one_line(text))}", highlight=False, soft_wrap=True)


@contextmanager
def progress(name: str, what: str) -> Iterator[Bar]:
    """A progress bar on standard error, named after the work and its subject."""
    if not err.is_terminal:
        yield Bar(None, None, name)
        return
    counts = (column(table_column=Column(no_wrap=True))
              for column in (MofNCompleteColumn, TimeElapsedColumn, TimeRemainingColumn))
    columns = (_Cut("{task.description}", table_column=Column()), BarColumn(), *counts,
               _Cut("{task.fields[note]}", table_column=Column()))
    with Display(*columns, console=err, transient=True) as shown:
        yield Bar(shown, shown.add_task(f"{name} {escape(what)}", total=None, note=""), name)


class _Cut(TextColumn):
    """Text that is cut off where there is no room for it; then the numbers beside it keep theirs."""

    def render(self, task: Any) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 12 min, 3.5 h, 2.1 days."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if unit != "min" else f"{seconds / size:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def size(count: int) -> str:
    """Bytes in words."""
    for unit, one in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= one:
            return f"{count / one:.1f} {unit}"
    return f"{count / 2**10:.1f} KiB"


def show_sheet(sheet: Mapping[str, Any], auroc: bool = False, selected: bool = False) -> None:
    """The scores of one sheet as a table, with the paired gain and any flags; ``auroc``: and the area under the curve;
    ``selected``: the set is of real images."""
    protocol: Protocol = load(Protocol, sheet["protocol"])  # type: ignore[type-abstract]
    table = Table(title=f"{sheet['network']}, protocol {spec(protocol, nested=True)}, {sheet['split']} split "
                        f"({counted(sheet['images'], 'image')}), ipc {sheet['ipc']}", title_justify="left")
    table.add_column("trained on")
    more = ["AUROC %"] if auroc else []
    for column in ("accuracy %", "std", "balanced %", *more, "trials"):
        table.add_column(column, justify="right")
    words = {"synthetic": "selected real images" if selected else "distilled images", "random": "random real images",
             "full": "all training images"}
    for subject, word in words.items():
        if found := sheet["summary"].get(subject):
            std = "-" if found["n"] == 1 else f"{100 * found['std']:.1f}"
            area = [f"{100 * found['auroc']:.1f}" if "auroc" in found else "-"] if auroc else []
            table.add_row(word, f"{100 * found['mean']:.1f}", std, f"{100 * found['balanced']:.1f}", *area, str(found["n"]))
    for word, other in _others(sheet, getattr(protocol, "best", "none")):
        std = f"{100 * other['std']:.1f}" if other["n"] > 1 else "-"
        table.add_row(word, f"{100 * other['mean']:.1f}", std, "", *([""] if auroc else []), str(other["n"]))
    chance = f"{100 * sheet['chance']:.1f}"
    table.add_row("chance", chance, "", chance)
    name, share = imbalance(sheet)
    if share:
        table.add_row(f"always the largest class ({escape(name)})", f"{100 * share:.1f}", "", chance)
    out.print(table)
    gain = sheet["summary"].get("gain", {})
    for what, one in (("", gain), (" in balanced accuracy", gain.get("balanced") if share else None)):
        if one:
            interval = f", 95 % interval {100 * one['low']:+.1f} to {100 * one['high']:+.1f}" if "low" in one else ""
            out.print(f"gain over random real images{what}, paired: {100 * one['mean']:+.1f} points{interval}",
                      highlight=False)
    if "best" in sheet["summary"]:
        out.print("[dim]The authors' rule of choosing looks at the images it is reported on: that number is too high for "
                  "what the set is worth.[/]")
    if sheet.get("selected"):
        out.print("[dim]The best snapshot was selected on the images it is reported on, as in MTT and later papers: this "
                  "number is too high for what the set is worth.[/]")
    for flag in sheet["flags"]:
        out.print(f"[yellow]Caution: {flag}[/]", highlight=False)
    if any(MAY_NOT in flag for flag in sheet["flags"]) and sheet["protocol"]["kind"] == "dc":
        out.print("[dim]The protocol dc trains every kind of network with the same settings; --protocol tuned has settings "
                  "for each kind.[/]")


def _others(sheet: Mapping[str, Any], rule: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Further rows of a sheet: what tells labels and images apart, and what rules of choosing give."""
    for name, found in sheet["summary"].get(CONTROLS, {}).items():
        yield f"[dim]{escape(control(name))}[/]", found
    if "best" in sheet["summary"]:
        yield f"[dim]distilled images, {RULES.get(rule, 'best by a rule')}[/]", sheet["summary"]["best"]
    if chosen := sheet.get("selected"):
        word = f"best of {chosen['of']} snapshots (iteration {chosen['iteration']})"
        yield word, statistics(chosen["accuracy"])


def show_statistics(found: Sequence[Any]) -> None:
    """What the batch normalization of teachers remembers, raw and scale-free, means over layers."""
    from datastill.analysis.statistics import MEASURES

    table = Table(title="statistics of batch normalization, means over layers", title_justify="left")
    table.add_column("measure")
    teachers = {name: values for one in found for name, (_, values) in one.teachers.items()}
    for name in teachers:
        table.add_column(escape(name), justify="right", overflow="fold")
    for measure in MEASURES:
        table.add_row(measure, *(f"{values[measure]:.3g}" for values in teachers.values()))
    out.print(table)


def show_meta_features(found: Any) -> None:
    """What networks see alike, at a threshold of 0.5."""
    table = Table("networks", "of", title="activation maps, threshold 0.5", title_justify="left")
    for column in ("overlap %", "where all see %", "empty maps %", "area all see %", "variance"):
        table.add_column(column, justify="right")
    for group, networks in found.groups.items():
        for name, some in found.shown.items():
            one = some.of(networks, 0.5)
            table.add_row(f"{group} ({len(networks)})", name, *(_share(one[what]) for what in (
                "overlap", "common", "empty", "meta")), f"{one['variance']:.3g}")
    out.print(table)
    out.print("overlap: the area that all see as a share of what any sees; then over images in which all see something",
              highlight=False)


def _share(share: float | None) -> str:
    """A fraction in percent; nothing for None and nan."""
    return "" if share is None or math.isnan(share) else f"{100 * share:.1f}"


def show_erasing(found: Sequence[Any]) -> None:
    """Accuracy of students of images from which something was erased."""
    from datastill.analysis.erasing import WAYS
    from datastill.statistics import difference

    table = Table(title="accuracy on whole test images; differences are paired by trial", title_justify="left")
    table.add_column("student", overflow="fold")
    table.add_column("erased", no_wrap=True)
    for column in ("area %", "accuracy %", "against nothing", "95 %"):
        table.add_column(column, justify="right")
    plain = {one.network: one for one in found if one.way == next(iter(WAYS))}
    for one in found:
        values, whole = one.summary, plain[one.network]
        apart = difference([a - b for a, b in zip(one.accuracies, whole.accuracies, strict=True)])
        table.add_row(one.network, one.way, f"{100 * one.share:.1f}", _spread(values),
                      *(() if one is whole else (f"{100 * apart['mean']:+.1f}", _interval(apart))))
    out.print(table)
    for name, note in WAYS.items():
        out.print(f"{name}: {note}", highlight=False, soft_wrap=True)


def show_tried(tried: Sequence[Any], varied: Sequence[str], network: str, chance: float, images: int, what: str) -> None:
    """Protocols, their ``varied`` settings first, and how students did under them, the best first."""
    keys = list(dict.fromkeys(varied))
    table = Table(title=f"{network} on random real images of {what}; validation accuracy on {counted(images, 'image')}, "
                        f"chance {100 * chance:.1f} %", title_justify="left")
    for key in keys:
        table.add_column(key)
    table.add_column("protocol", overflow="fold")
    for column in ("accuracy %", "std", "trials"):
        table.add_column(column, justify="right")
    for one in tried:
        values = leaves(dump(one.protocol))
        tried_with = [str(values.get(key, "")) for key in keys]
        if one.failed:
            table.add_row(*tried_with, spec(one.protocol), "-", "", escape(one.failed))
            continue
        found = statistics(one.accuracies)
        table.add_row(*tried_with, spec(one.protocol), f"{100 * found['mean']:.1f}",
                      f"{100 * found['std']:.1f}" if found["n"] > 1 else "-", str(found["n"]))
    out.print(table)
    if tried[0].mean <= guessing(chance, images):
        out.print("[yellow]Caution: no better than guessing under any of these settings[/]", highlight=False)


def counts(splits: Splits) -> str:
    """The number of images of each class in every split, in words."""
    named = (("training", splits.train), ("validation", splits.validation), ("testing", splits.test))
    return "; ".join(f"{per_class(one.classes, one.counts)} for {name}" for name, one in named if one is not None)


def say_rough(distill: float, evaluate: float | None = None) -> None:
    """The first estimate of a plan, while more is being measured."""
    more = "" if evaluate is None else f" to distill, about {duration(evaluate)} to evaluate"
    err.print(f"first estimate: about {duration(distill)}{more}, without missing teachers; measuring more", highlight=False,
              soft_wrap=True)


def show_plan(recipe: Any, splits: Any, plan: Any, trials: int, device: str) -> None:
    """What will run, and what it is expected to take."""
    run, roughly = recipe.run, " (rough: from a part of an iteration)" if plan.rough else ""
    plugins = ", ".join(f"{p.label or kind(p)} (weight {p.weight:g})" for p in run.plugins) or "none"
    protocol = recipe.protocol
    rows = [
        ("method", f"{spec(run.method)}"), ("plug-ins", plugins),
        ("data", f"{run.data.name}: {counted(len(splits.train), 'training image')} {splits.train.shape}, "
                 f"{counted(len(splits.train.classes), 'class')}"),
        ("images per class", counts(splits)),
        ("network", spec(run.network)), ("result", f"{counted(len(run.rows) * len(splits.train.classes), 'image')}, "
                                             f"{size(plan.disk)}"),
        ("device", device),
        ("distill", f"{counted(plan.iterations, 'iteration')} x {duration(plan.per_iteration)} = {duration(plan.distill)}"
                    f"{roughly}"),
        *([("teachers", f"{duration(plan.teachers)} to train the missing ones")] if plan.teachers else []),
        ("evaluate", f"{counted(trials, 'trial')} x 2 (distilled, random real) x {duration(plan.student)} = "
                     f"{duration(2 * trials * plan.student)} with {spec(protocol)}"),
        ("peak memory", f"{'more than ' if plan.rough else ''}{size(plan.memory)}"),
        *([("by setting", ", ".join(f"{setting} {size(needed)}{'' if needed <= plan.limit else ' (does not fit here)'}"
                                  for setting, needed in plan.settings.items()))] if plan.settings else []),
        *([("passes", "; ".join(f"{name}: {form}" for name, form in plan.speed.items()))] if plan.speed else []),
        ("folder", run.label(splits.train)),
    ]
    table = Table(show_header=False, box=None)
    for name, text in rows:
        table.add_row(f"[bold]{name}[/]", escape(text))
    out.print(table)
    out.print("Times are extrapolated from a few iterations on this machine in its current state.", style="dim")


def show_teachers(teachers: Any) -> None:
    """The teachers of a trained pool."""
    table = Table("teacher", "validation accuracy %", "folder")
    for teacher in teachers:
        accuracy = teacher.facts.get("accuracy")
        table.add_row(teacher.name, "-" if accuracy is None else f"{100 * accuracy:.1f}", str(teacher.folder))
    out.print(table)


def show_diversity(found: Any, images: str) -> None:
    """How different the teachers of a pool are, in pairs."""
    table = Table(title=f"{counted(len(found.names), 'teacher')} on {images} images. Above the diagonal: share predicted "
                        "differently; below: linear CKA of features", title_justify="left")
    for column in ("", "teacher", "accuracy %", *map(str, range(1, len(found.names) + 1))):
        table.add_column(column)
    for a, name in enumerate(found.names):
        accuracy = float(found.accuracy[a])
        values = ["" if a == b else f"{float((found.disagreement if a < b else found.cka)[a, b]):.2f}"
                  for b in range(len(found.names))]
        table.add_row(str(a + 1), escape(name), "-" if math.isnan(accuracy) else f"{100 * accuracy:.1f}", *values)
    out.print(table)
    if len(found.names) > 1:
        out.print(f"mean over pairs: predicted differently {found.mean(found.disagreement):.3f}, "
                  f"CKA {found.mean(found.cka):.3f}", highlight=False)


def show_judged(rows: Sequence[tuple[str, Any]], correlation: Mapping[str, Any]) -> None:
    """How teachers judge sets over the course of their runs."""
    looked = any(one.empty is not None for _, one in rows)
    maps = ("overlap of maps %", "where all see %", "empty maps %") if looked else ()
    table = Table("run", "iteration", "cross-entropy", "accuracy %", "gradient norm", *maps)
    for name, one in rows:
        shares = map(_share, (one.overlap, one.common, one.empty)) if looked else ()
        table.add_row(escape(name), str(one.iteration), f"{one.cross_entropy:.3f}", f"{100 * one.accuracy:.1f}",
                      f"{one.gradn:.3g}", *shares)
    out.print(table)
    for name in ("spearman", "kendall", "pearson"):
        if name in correlation:
            one = correlation[name]
            out.print(f"final cross-entropy and test accuracy over {correlation['n']} runs, {name}: {one['value']:+.2f} "
                      f"(p {one['p']:.2g})", highlight=False)


def show_difficulty(found: Any) -> None:
    """Means of the scores of real images, and of a run by iteration; rank correlations."""
    from datastill.analysis.difficulty import NOTES
    names = list(found.real.scores)
    table = Table("iteration" if found.run else "", *names, *(["gradn at the run's network"] if found.current else []),
                  title="Means over the images; large means hard", title_justify="left")
    for number, one in [("real images", found.real), *found.run.items()]:
        own = [f"{found.current[number]:.3g}" if number in found.current else "-"] if found.current else []
        table.add_row(str(number), *(f"{one.scores[name].mean():.3g}" for name in names), *own)
    out.print(table)
    for name in names:
        out.print(f"{name}: {NOTES[name]}", highlight=False, soft_wrap=True)
    for caution_ in found.warnings:
        caution(caution_)
    for name, one in found.public.items():
        out.print(f"rank correlation of the given scores with {NOTES[name]}: {one['spearman']['value']:+.3f} (Spearman, "
                  f"n = {one['n']})", highlight=False, soft_wrap=True)


def show_foreseen(foreseen: Any, jobs: int) -> None:
    """What a study would run and how long it would take."""
    table = Table("recipe", "arm", "runs", "missing", "students missing", "time")
    for recipe, arm, runs, missing, students, seconds in foreseen.arms:
        table.add_row(recipe, escape(arm), str(runs), str(missing), str(students), duration(seconds) if students else "-")
    out.print(table)
    total = foreseen.runs_and_students
    share = f" with {jobs} jobs, if the work divides evenly" if jobs > 1 else ""
    out.print(f"missing teachers: {duration(foreseen.teachers)}; missing runs and students: {duration(total)}; total "
              f"{duration((total + foreseen.teachers) / jobs)}{share}")
    out.print("Times are extrapolated from a few iterations on this machine in its current state.", style="dim")


def show_results(results: Mapping[str, Any]) -> None:
    """The rows of a study."""
    table = Table(title=results["question"], title_justify="left")
    for column in ("recipe", "arm", "student"):
        table.add_column(column, overflow="fold")
    compared = [f"vs. {results['against']}", "95 % interval"] if results["against"] else []
    for column in ("accuracy %", "gain over random", *compared):
        table.add_column(column, justify="right")
    for row in results["rows"]:
        cells = _compared(row, f"{100 * row['gain']['mean']:+.1f}", len(compared))
        table.add_row(row["recipe"], escape(row["arm"]), row["student"], *cells)
    for one in results["students"]:
        who = f"{len(one['students'])} {'together' if one['group'] == 'all' else one['group']}"
        table.add_row(one["recipe"], escape(one["arm"]), who, *_compared(one, "", len(compared)))
    out.print(table)


def _compared(row: Mapping[str, Any], gain: str, columns: int) -> list[str]:
    """Accuracy, gain and, if there are so many more columns, the difference of a row of results."""
    against, mean = row.get("difference"), row["mean"]
    return [_spread(mean), gain, *([""] * columns if against is None else [
        f"{100 * against['mean']:+.1f}", _interval(against) or "one seed"])]


def _spread(mean: Mapping[str, float]) -> str:
    """Mean and, of several, standard deviation in percent."""
    return f"{100 * mean['mean']:.1f}" + (f" ± {100 * mean['std']:.1f}" if mean["n"] > 1 else "")


def _interval(found: Mapping[str, float]) -> str:
    """The 95 % interval of a difference in points; "" for a single one."""
    return f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f}" if "low" in found else ""


def show_speed(found: Mapping[str, Any], folder: Any) -> None:
    """What ``tune-speed`` measured: milliseconds of an image by form, the chosen one marked."""
    for name, timed in found.items():
        out.print(f"[bold]{escape(name)}[/]", highlight=False, soft_wrap=True)
        table = Table(box=None)
        for column in ("form", "ms an image", ""):
            table.add_column(column, justify="right" if column.startswith("ms") else "left")
        for form, seconds in sorted(timed.seconds.items(), key=lambda pair: pair[1]):
            table.add_row(form, f"{1000 * seconds:.4g}", "chosen" if form == str(timed.form) else "")
        if not timed.seconds:
            table.add_row(str(timed.form), "", "usual: this machine is too busy to tell")
        out.print(table)
    kept = any(timed.kept for timed in found.values())
    out.print(f"Kept in {folder}" if kept else "Nothing is kept",
              highlight=False, soft_wrap=True)
