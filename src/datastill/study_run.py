"""Carry out a study: only what is missing is run, and its cost can be estimated beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from datastill import artifact
from datastill.analysis.judging import check_judges, judge
from datastill.comparison import compare
from datastill.digest import digest, spec
from datastill.errors import InputError
from datastill.executors import Executor
from datastill.files import make_folder, write_json
from datastill.late import torch
from datastill.nets import Architecture
from datastill.place import Place, images_of
from datastill.plan import plan
from datastill.progress import Progress
from datastill.run import Run, check_protocol, check_run
from datastill.running import distill, labeler
from datastill.scoring import Evaluation, check_student
from datastill.sheets import scored
from datastill.study import Cell, Study, cells
from datastill.teachers import Context, Pool
from datastill.trials import score

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
    for pool, cell in pools(study, found):
        place.make_teachers(pool, cell.read.run.data, executor, progress.part(0, 1, "teachers"))
    alone = {cell.name: cell for cell in found}  # arms may share a run
    outcome = executor.map(partial(_run_cell, study, place), alone, progress.part(0, 1, "runs"))
    results = compare(study, found, [outcome[cell.name] for cell in found])
    make_folder(folder)
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
              for pool in (*cell.read.run.pools(), *([study.judges] if study.judges else []))}
    return [(pool, cell) for (pool, _), cell in needed.items()]


class Foreseen(NamedTuple):
    """What a study will take: by recipe and arm the number of runs, how many of them and how many students are still
    missing, and the seconds these take; seconds to train the missing teachers."""

    arms: list[tuple[str, str, int, int, int, float]]
    teachers: float


def foresee(study: Study, place: Place) -> Foreseen:
    """Try one run of every arm that is not finished; nothing is written. Raises InputError like ``run_study``."""
    found = cells(study)
    check_study(study, found, place)
    arms = []
    training: dict[Path, float] = {}
    for recipe, arm in dict.fromkeys((cell.recipe, cell.arm) for cell in found):
        own = [cell for cell in found if (cell.recipe, cell.arm) == (recipe, arm)]
        there = [cell for cell in own if (place.run_folder(cell.read.run) / artifact.CARD).exists()]
        missing = len(own) - len(there)
        kinds = study.students or (own[0].read.run.network,)
        wanted = [missing * study.trials + sum(_unscored(study, place, cell, one) for cell in there) for one in kinds]
        run, protocol = own[0].read.run, own[0].read.protocol
        context = place.context(run.data)
        for pool in (*run.pools(), *([study.judges] if study.judges else [])):
            members = product(range(len(pool.networks)), range(pool.size))
            for member, where in zip(members, pool.places(context), strict=False):
                if where not in training:
                    training[where] = pool.alone(*member).seconds(context)
        seconds = 0.0
        if any(wanted):
            plans = [plan(run, context.real, protocol, student, root=place.root, data_root=place.data_root)
                     for student in kinds]
            scoring = sum(2 * count * one.student for count, one in zip(wanted, plans, strict=True))
            seconds = missing * plans[0].distill + scoring
        arms.append((recipe, arm, len(own), missing, sum(wanted), seconds))
    return Foreseen(arms, sum(training.values()))


def _unscored(study: Study, place: Place, cell: Cell, student: Architecture) -> int:
    """The number of students of this kind that a finished run still lacks."""
    splits, folder = place.load(cell.read.run.data), place.run_folder(cell.read.run)
    images = images_of(splits, study.split)
    evaluation = Evaluation(cell.read.protocol, student, splits.train, images, study.split, cell.seed)
    return max(0, study.trials - scored(folder, artifact.load(folder), evaluation))


def _run_cell(study: Study, place: Place, cell: Cell, device: torch.device) -> dict[str, Any]:
    """One run, its students, and the judges' results."""
    run, place = cell.read.run, place.on(device)
    splits, folder = place.load(run.data), place.run_folder(run)
    task = place.task(run)
    every = max(1, run.method.iterations // study.snapshots)
    distill(run, task.real, folder, root=place.root, data_root=place.data_root, wait=True,
            keep=range(0, run.method.iterations + 1, every), about=cell.read.about())
    distilled = artifact.load(folder).to(device)
    images = images_of(splits, study.split).to(device)
    scores = {}
    labels = labeler(run, task) if distilled.card["labels"] == "soft" else None
    for student in study.students or (run.network,):
        evaluation = Evaluation(cell.read.protocol, student, task.real, images, study.split, cell.seed)
        sheet = score(folder, distilled, evaluation, trials=study.trials, baselines=place.baselines, labeler=labels)
        scores[spec(student)] = {subject: [one["accuracy"] for one in sheet[subject]][:study.trials]
                                 for subject in ("synthetic", "random")} | {"flags": sheet["flags"]}
    prepared = distilled.card.get("prepared", {})
    judged = [] if study.judges is None else [one._asdict() for one in judge(folder, run, task.teachers(study.judges))]
    return {"folder": folder.name, "scores": scores, "judged": judged,
            "teachers": [teacher for facts in prepared.values() for teacher in facts.get("teachers", [])]}
