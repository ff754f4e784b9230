"""Carry out a study: only what is missing is run, and its cost can be estimated beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from datastill import artifact
from datastill.analysis.judging import check_judges, judge
from datastill.comparison import compare
from datastill.core import Protocol
from datastill.digest import digest, spec
from datastill.errors import InputError
from datastill.executors import Executor
from datastill.files import make_folder, write_json
from datastill.late import torch
from datastill.nets import Architecture
from datastill.place import Place, images_of
from datastill.plan import Plan, plan, student_seconds
from datastill.progress import Progress
from datastill.run import Run, check_protocol, check_run
from datastill.running import distill, labeler
from datastill.scoring import Evaluation, check_student
from datastill.sheets import CONTROLS, scored
from datastill.study import Cell, Study, cells
from datastill.teachers import Context, Pool
from datastill.trials import CHOSEN, score

RESULTS = "results.json"


def run_study(study: Study, place: Place, folder: Path, *, executor: Executor | None = None,
              progress: Progress = Progress()) -> dict[str, Any]:
    """Run what is missing: teachers, then runs with their students. Returns the results and writes them to ``folder``.

    Runs are stored in ``root/runs`` and shared by all studies. executor: by default one run after the other. ``progress`` is
    told the stage: check, teachers, runs. Raises InputError before any work; RunError, with finished work kept.
    """
    executor = executor or place.executor()
    found = cells(study)
    progress.tell(0, 1, "check")
    check_study(study, found, place)
    for one in (folder, place.baselines):
        make_folder(one)
    needed = [(pool, cell.read.run.data) for pool, cell in pools(study, found)]
    place.make_teachers(needed, executor, progress.part(0, 1, "teachers"))
    alone = {cell.name: cell for cell in found}  # arms may share a run
    outcome = executor.map(partial(_run_cell, study, place), alone, progress.part(0, 1, "runs"))
    results = compare(study, found, [outcome[cell.name] for cell in found])
    write_json(folder / RESULTS, results)
    return results


def check_study(study: Study, found: Sequence[Cell], place: Place) -> None:
    """Check that every run fits its data and every student its images. Raises InputError naming the arm."""
    seen = set()
    for cell in found:
        run = cell.read.run
        if (key := digest(run.model_copy(update={"seed": 0}))) in seen:
            continue
        seen.add(key)
        splits = place.load(run.data)
        try:
            task = check_run(run, splits.train, root=place.root, data_root=place.data_root)
            check_protocol(run, cell.read.protocol)
            for student in study.students or (run.network,):
                check_student(student, images_of(splits, study.split))
                _protocol(cell).check(task.context, student)
            if study.judges is not None:
                check_judges(study.judges, task.context)
                _see_apart(study.judges, run, task.context)
        except InputError as error:
            raise InputError(f"arm {cell.arm!r} of {cell.recipe}: {error}") from None


def _see_apart(judges: Pool, run: Run, context: Context) -> None:
    """Check that no judge takes part in the run. Raises InputError."""
    asked = {where for pool in run.pools() for where in pool.places(context)}
    if both := [where for where in judges.places(context) if where in asked]:
        raise InputError(f"judges: the teacher in {both[0]} also guides the run, so it would judge its own work; give "
                         "the judges another seed")


def pools(study: Study, found: Sequence[Cell]) -> list[tuple[Pool, Cell]]:
    """Every pool of teachers the study needs, with a run that uses it; a larger pool holds the teachers of smaller ones."""
    needed = {(pool, cell.read.run.data): cell for cell in found
              for pool in (*cell.read.run.pools(), *_labelers(study, cell), *([study.judges] if study.judges else []))}
    return [(pool, cell) for (pool, _), cell in needed.items()]


def _protocol(cell: Cell) -> Protocol:
    """The protocol of a run's students, with the teachers of its method."""
    return cell.read.protocol.for_method(cell.read.run.method, cell.read.run.network)


def _labelers(study: Study, cell: Cell) -> list[Pool]:
    """The pools of teachers whose labels students learn."""
    return [pool for student in study.students or (cell.read.run.network,) for pool in _protocol(cell).pools(student)]


class Foreseen(NamedTuple):
    """What a study will take: by recipe and arm the number of runs, how many of them and how many students are still
    missing, and the seconds these take; seconds to train the missing teachers."""

    arms: list[tuple[str, str, int, int, int, float]]
    teachers: float


    @property
    def runs_and_students(self) -> float:
        """Seconds of the missing runs and students."""
        return sum(seconds for *_, seconds in self.arms)


class _Missing(NamedTuple):
    """What an arm lacks: the number of runs, and that of students of each kind."""

    recipe: str
    arm: str
    cells: list[Cell]
    runs: int
    students: list[int]

    def row(self, distill: float, students: Sequence[float], beside: int = 1) -> tuple[str, str, int, int, int, float]:
        """Its row, from the seconds of a run and of a student of each kind, each with so many others beside it that learn
        from real images."""
        scoring = sum((1 + beside) * count * one for count, one in zip(self.students, students, strict=True))
        return self.recipe, self.arm, len(self.cells), self.runs, sum(self.students), self.runs * distill + scoring


def foresee(study: Study, place: Place, progress: Progress = Progress(),
            first: Callable[[Foreseen], None] = lambda foreseen: None) -> Foreseen:
    """Try one run of every arm that is not finished; nothing is written. Raises InputError like ``run_study``.

    first: is given a rough estimate as soon as there is one, as if every arm took as long as the first and without teachers.
    """
    found = cells(study)
    progress.tell(0, 1, "check")
    check_study(study, found, place)
    lacking = [_missing(study, place, [cell for cell in found if (cell.recipe, cell.arm) == arm])
               for arm in dict.fromkeys((cell.recipe, cell.arm) for cell in found)]
    todo, said = [one for one in lacking if any(one.students)], False

    def say(rough: Plan) -> None:
        nonlocal said
        if not said:
            said = True
            first(Foreseen([one.row(rough.distill, [rough.student] * len(one.students)) for one in lacking], 0.0))

    arms, compared = list[tuple[str, str, int, int, int, float]](), set[str]()
    for one in lacking:
        part = progress.part(len(arms), len(lacking), f"{one.recipe} {one.arm}")
        arms.append(_foresee(study, place, one, compared, part, say) if one in todo else
                    one.row(0.0, [0.0] * len(one.students)))
    progress.tell(len(lacking), len(lacking), "teachers")
    return Foreseen(arms, _teachers(study, place, found))


def _missing(study: Study, place: Place, own: list[Cell]) -> _Missing:
    there = [cell for cell in own if (place.run_folder(cell.read.run) / artifact.CARD).exists()]
    missing = len(own) - len(there)
    students = [missing * study.trials + sum(_unscored(study, place, cell, one) for cell in there)
                for one in _kinds(study, own[0])]
    return _Missing(own[0].recipe, own[0].arm, own, missing, students)


def _kinds(study: Study, cell: Cell) -> tuple[Architecture, ...]:
    """The kinds of students of a run."""
    return study.students or (cell.read.run.network,)


def _beside(study: Study, cell: Cell, compared: set[str]) -> int:
    """How many students learn from real images for each student of a run: those of random ones and of the controls, if they
    are not shared with an arm before, whose key is in ``compared``."""
    run, protocol = cell.read.run, _protocol(cell)
    key = digest(run.data, digest(protocol), str(run.ipc), digest(run.parametrization), digest(run.network))
    if key in compared:
        return 0
    compared.add(key)
    labels = len(protocol.controls()) if study.controls else 0
    return (1 + len(CHOSEN)) * (1 + labels) if labels else 1


def _foresee(study: Study, place: Place, one: _Missing, compared: set[str], progress: Progress,
             first: Callable[[Plan], None]) -> tuple[str, str, int, int, int, float]:
    run, protocol = one.cells[0].read.run, one.cells[0].read.protocol
    kind, *others = _kinds(study, one.cells[0])
    task = place.task(run)
    tried = plan(run, task.real, protocol, kind, root=place.root, data_root=place.data_root, progress=progress, first=first)
    return one.row(tried.distill, [tried.student, *(student_seconds(run, task, protocol, other) for other in others)],
                   _beside(study, one.cells[0], compared))


def _teachers(study: Study, place: Place, found: Sequence[Cell]) -> float:
    """Seconds to train the missing teachers."""
    seconds: dict[Path, float] = {}
    for pool, cell in pools(study, found):
        context = place.context(cell.read.run.data)
        members = product(range(len(pool.networks)), range(pool.size))
        for member, where in zip(members, pool.places(context), strict=False):
            if where not in seconds:
                seconds[where] = pool.alone(*member).seconds(context)
    return sum(seconds.values())


def _unscored(study: Study, place: Place, cell: Cell, student: Architecture) -> int:
    """The number of students of this kind that a finished run still lacks."""
    splits, folder = place.load(cell.read.run.data), place.run_folder(cell.read.run)
    images = images_of(splits, study.split)
    evaluation = Evaluation(_protocol(cell), student, splits.train, images, study.split, cell.seed, root=place.root,
                            data_root=place.data_root)
    return max(0, study.trials - scored(folder, artifact.load(folder), evaluation))


def _run_cell(study: Study, place: Place, cell: Cell, device: torch.device, progress: Progress) -> dict[str, Any]:
    """One run, its students, and the judges' results."""
    run, place = cell.read.run, place.on(device)
    splits, folder = place.load(run.data), place.run_folder(run)
    task = place.task(run)
    every = max(1, run.method.iterations // study.snapshots)
    distill(run, task.real, folder, root=place.root, data_root=place.data_root, wait=True, portable=place.portable,
            keep=range(0, run.method.iterations + 1, every), about=cell.read.about(), progress=progress)
    distilled = artifact.load(folder).to(device)
    images = images_of(splits, study.split).to(device)
    scores = {}
    labels = labeler(run, task) if distilled.card["labels"] == "soft" else None
    for student in study.students or (run.network,):
        evaluation = Evaluation(_protocol(cell), student, task.real, images, study.split, cell.seed, root=place.root,
                                data_root=place.data_root)
        with place.choosing():
            sheet = score(folder, distilled, evaluation, trials=study.trials, baselines=place.baselines, labeler=labels,
                          controls=study.controls, progress=progress)
        accuracy = {name: [one["accuracy"] for one in trials][:study.trials] for name, trials in
                    [(name, sheet[name]) for name in ("synthetic", "random")] + [*sheet.get(CONTROLS, {}).items()]}
        scores[spec(student)] = {"synthetic": accuracy.pop("synthetic"), "random": accuracy["random"],
                                 "controls": accuracy if study.controls else {}, "flags": sheet["flags"]}
    prepared = distilled.card.get("prepared", {})
    judged = [] if study.judges is None else [one._asdict() for one in judge(folder, run, task.teachers(study.judges))]
    return {"folder": folder.name, "scores": scores, "judged": judged,
            "teachers": [teacher for facts in prepared.values() for teacher in facts.get("teachers", [])]}
