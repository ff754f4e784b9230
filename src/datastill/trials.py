"""Trials: train the students a score sheet is missing, on a distilled set and on the baselines beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datastill.artifact import TENSORS
from datastill.compute import falls_back
from datastill.core import Labeler
from datastill.data import Batch
from datastill.digest import digest
from datastill.files import make_folder, sha256
from datastill.functional.coresets import herding, k_center
from datastill.late import torch
from datastill.progress import Progress
from datastill.rng import RNG
from datastill.scoring import Evaluation, Score, check_alike, check_held_out, check_student, repeated, student
from datastill.sheets import CONTROLS, SCORES, SUBJECTS, Sheet, Subject, describe, facts, place_of, put, read, stored
from datastill.store import read_record, write_record
from datastill.task import Task, filled
from datastill.teachers import Teachers

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.distilled import Distilled

LABELS = "labels"  # in the folder of a set, or of its scores
CHOSEN = {"herding": herding, "k_center": k_center}


def score(folder: Path, distilled: Distilled, evaluation: Evaluation, *, baselines: Path, scores: Path | None = None,
          trials: int = 5, full: bool = False, labeler: Labeler | None = None, controls: bool = True,
          progress: Progress = Progress()) -> dict[str, Any]:
    """Score an artifact beside random real images (drawn again each trial) and, on request, the full training data; with
    ``controls`` also beside what tells labels and images apart, if the protocol has teachers (see ``controls_of``).

    scores: folder of the sheet, by default ``folder/scores``. labeler: gives the random images soft labels, if the set's are
    soft.

    Each trial is written when it is done, to ``<digest>.json`` in the folder of scores and, for the baselines, to
    ``baselines``, where they are shared by all sets of that data, ipc and protocol; a second call runs only what is missing,
    and no measurement is ever dropped. Returns the sheet of all finished trials. Raises InputError like ``evaluate``.
    """
    _check(distilled, evaluation)
    work = _Work(folder, distilled, evaluation, baselines, scores, labeler)
    evaluation.prepare(progress)
    path = work.places["synthetic"]
    before = read(path)
    known = before["repeated"] if "repeated" in before else repeated(evaluation.train, evaluation.images)
    card = distilled.card
    data = {key: card["data"][key] for key in ("name", "fingerprint")}
    about = {"data": data, **_measured_on(evaluation), "repeated": known}
    labels = {"synthetic": card["labels"], "random": "hard" if work.labeler is None else "soft"}
    result: dict[str, Any] = {**facts(work.sheets["synthetic"]), **about, "labels": labels, "copies": card.get("copies", 0)}
    asked = [*(subject for subject in SUBJECTS if subject != "full" or full), *(work.controls if controls else ())]
    for subject in SUBJECTS:
        part = progress.part(asked.index(subject), len(asked)) if subject in asked else progress
        count = (1 if full else 0) if subject == "full" else trials
        done = _trials(work.places[subject], count, work.students(subject, count, part),
                       {**facts(work.sheets[subject]), **about}, subject)
        if done and (subject != "full" or full or "full" in before):
            result[subject] = [one.model_dump(mode="json") for one in done]
    for name in work.controls:
        part = progress.part(asked.index(name), len(asked)) if name in asked else progress
        done = _trials(work.places[name], trials if controls else 0, work.students(name, trials, part),
                       {**facts(work.sheets[name]), **about}, name)
        if done:
            result.setdefault(CONTROLS, {})[name] = [one.model_dump(mode="json") for one in done]
    return put(path, result, whole=True)


def labels_of(folder: Path, scores: Path | None = None) -> Path:
    """Where the stored labels of a set are: in its folder, or in that of its scores if they are elsewhere."""
    return (folder if scores is None or scores.parent == folder else scores) / LABELS


class _Work:
    """What is scored: the sheets of the set and of its baselines, where they are stored, what students are trained on.

    labeler: used for the random images only if the set's labels are soft.
    """

    def __init__(self, folder: Path, distilled: Distilled, evaluation: Evaluation, baselines: Path, scores: Path | None,
                 labeler: Labeler | None) -> None:
        self.distilled, self.evaluation = distilled, evaluation
        self.labeler = labeler if distilled.card["labels"] == "soft" else None
        sheet = describe(sha256(folder / TENSORS), distilled, evaluation)
        self.sheets: dict[str, Sheet] = {subject: _of(subject, sheet, self.labeler) for subject in SUBJECTS}
        self.controls = controls_of(sheet, evaluation)
        scores = scores or folder / SCORES
        for place in (scores, baselines):
            make_folder(place)
        self.places = {subject: baselines / f"{subject}-{digest(own)}.json" for subject, own in self.sheets.items()}
        self.places |= {name: baselines / f"control-{digest(own)}.json" for name, own in self.controls.items()}
        self.sheets |= self.controls
        self.places["synthetic"] = place_of(scores, sheet)
        self.labels = labels_of(folder, scores)

    def students(self, subject: str, count: int, progress: Progress = Progress()) -> Callable[[int], Score]:
        """Trains the student of one of ``count`` trials, or reads it if it was trained ahead."""
        own = self.sheets[subject]
        examples = partial(_examples, subject, own, self.distilled, self.evaluation, self.labeler)
        stored = self.labels if subject == "synthetic" else None
        train = _students(subject, examples, own, self.evaluation, count, progress, stored)

        def run(trial: int) -> Score:
            ahead = _ahead(self.places[subject], trial)
            known = read_record(ahead, "delete it to train the student again")
            found = train(trial) if known is None else Score.model_validate(known["score"])
            ahead.unlink(missing_ok=True)
            return found
        return run


def missing(folder: Path, distilled: Distilled, evaluation: Evaluation, *, baselines: Path, scores: Path | None = None,
            trials: int = 5, full: bool = False, labeler: Labeler | None = None,
            controls: bool = True) -> list[tuple[str, int]]:
    """The students, (subject, trial), that ``score`` would train. Raises InputError as it does."""
    _check(distilled, evaluation)
    work = _Work(folder, distilled, evaluation, baselines, scores, labeler)
    counts = {"synthetic": trials, "random": trials, "full": 1 if full else 0} | {
        name: trials for name in (work.controls if controls else ())}
    return [(subject, trial) for subject, count in counts.items()
            for trial in range(len(stored(work.places[subject], read(work.places[subject]), subject)), count)
            if not _ahead(work.places[subject], trial).exists()]


def train_ahead(subject: str, trial: int, folder: Path, distilled: Distilled, evaluation: Evaluation, *, baselines: Path,
                scores: Path | None = None, labeler: Labeler | None = None, progress: Progress = Progress()) -> None:
    """Train one student and store its score where ``score`` will find it, whatever other processes do meanwhile."""
    work = _Work(folder, distilled, evaluation, baselines, scores, labeler)
    found = work.students(subject, trial + 1, progress)(trial)
    write_record(_ahead(work.places[subject], trial), {"score": found.model_dump(mode="json")})


def _ahead(path: Path, trial: int) -> Path:
    """Where a student waits until those before it are in the file at ``path``."""
    return path.with_name(f".{path.stem}-{trial}.ahead")


def own_trials(scores: Path, sheet: Sheet, distilled: Distilled, evaluation: Evaluation, trials: int,
               progress: Progress = Progress()) -> list[Score]:
    """The trials of a sheet's own set, without baselines; the missing ones are run and stored."""
    make_folder(scores)
    evaluation.prepare(progress)
    run = _students("synthetic", lambda trial: distilled, sheet, evaluation, trials, progress)
    header = {**facts(sheet), "images": len(evaluation.images)}
    return _trials(place_of(scores, sheet), trials, run, header, "synthetic")[:trials]


def random_real(evaluation: Evaluation, ipc: int, *, baselines: Path, trials: int = 5,
                progress: Progress = Progress()) -> list[Score]:
    """Score random real training images alone, drawn again each trial: the baseline every sheet has, in the same file.

    Raises InputError like ``evaluate``, RunError if a student diverges; the trials before that are kept.
    """
    check_student(evaluation.network, evaluation.images)
    make_folder(baselines)
    evaluation.prepare(progress)
    protocol = evaluation.protocol_for(None)
    sheet = Sheet(subject="random", protocol=protocol, network=evaluation.network, split=evaluation.split,
                  seed=evaluation.seed, ipc=ipc, fingerprint=evaluation.fingerprint, teachers=evaluation.teachers(protocol))
    run = _students("random", partial(_random, evaluation, ipc), sheet, evaluation, trials, progress)
    return _trials(baselines / f"random-{digest(sheet)}.json", trials, run, {**facts(sheet), **_measured_on(evaluation)},
                   "random")[:trials]


def _check(distilled: Distilled, evaluation: Evaluation) -> None:
    check_alike(distilled, evaluation.images)
    check_student(evaluation.network, evaluation.images)
    check_held_out(evaluation.train, evaluation.images)


def _of(subject: Subject, sheet: Sheet, labeler: Labeler | None) -> Sheet:
    """The description of a baseline: shared by all sets of the same data and, for random images, of the same ipc."""
    if subject == "synthetic":
        return sheet
    if subject == "random":
        return sheet.model_copy(update={"subject": "random" if labeler is None else f"random, {labeler.name}"})
    return sheet.model_copy(update={"subject": subject, "ipc": 0, "protocol": sheet.protocol.for_full_data(),
                                    "teachers": ()})


def controls_of(sheet: Sheet, evaluation: Evaluation) -> dict[str, Sheet]:
    """What a set is compared with besides random real images under its protocol, by name, if that protocol has controls:
    random images under other labels, and images chosen by the teachers' features ("herding", "k_center") under the same
    labels and others. No number of theirs depends on the set, so that all sets of a size share them."""
    others = sheet.protocol.controls()
    if not others:
        return {}
    found = {}
    for images in ("random", *CHOSEN):
        same = {} if images == "random" else {"": sheet.protocol}  # which every sheet has for random images
        for name, protocol in {**same, **others}.items():
            full = f"{images}, {name}" if name else images
            found[full] = sheet.model_copy(update={"subject": full, "protocol": protocol,
                                                   "teachers": evaluation.teachers(protocol)})
    return found


def _measured_on(evaluation: Evaluation) -> dict[str, Any]:
    """What a score file records about the images it was measured on (``counts``: of each class), and if students were not
    trained in the protocol's precision."""
    fallen = falls_back(evaluation.images.device, evaluation.protocol.precision)
    images = evaluation.images
    return {"images": len(images), "scored": images.fingerprint, "chance": evaluation.chance, "counts": images.counts,
            "largest": list(evaluation.largest), **({"computed": "float32"} if fallen else {})}


def _students(subject: str, examples: Callable[[int], Any], sheet: Sheet, evaluation: Evaluation, count: int,
              progress: Progress, labels: Path | None = None) -> Callable[[int], Score]:
    """Trains the student of one of ``count`` trials, by the protocol of a sheet, on its ``examples``; the labels of views
    are stored in the folder ``labels`` if the protocol says so."""
    def run(trial: int) -> Score:
        part = progress.part(trial, count, f"{subject}, trial {trial + 1}")
        return student(examples(trial), sheet.protocol, sheet.network, evaluation.images, trial, sheet.seed, part,
                       context=evaluation.context(part), folder=labels, checksum=sheet.subject)
    return run


def _examples(subject: str, sheet: Sheet, distilled: Distilled, evaluation: Evaluation, labeler: Labeler | None,
              trial: int) -> Any:
    """What a student of one subject is trained on."""
    if subject == "synthetic":
        return distilled
    if subject == "full":
        return evaluation.train
    if (how := subject.partition(",")[0]) in CHOSEN:
        return evaluation.train.batch(_chosen(how, sheet.ipc, evaluation))
    drawn = _random(evaluation, sheet.ipc, trial)
    return drawn if labeler is None else Batch(drawn.x, labeler.label(drawn))


def _chosen(how: str, ipc: int, evaluation: Evaluation) -> Tensor:
    """Rows of ``ipc`` training images of each class, chosen by the features of the first teacher."""
    (pool, *_) = evaluation.protocol_for(None).pools(evaluation.network)
    teacher, pick = Teachers(pool, evaluation.context())[0], CHOSEN[how]
    directions = torch.from_numpy(np.array(teacher.directions(evaluation.train)))
    return torch.cat([filled(rows[pick(directions[rows.cpu()], min(ipc, len(rows)))], ipc)
                      for rows in evaluation.train.of_class])


def _random(evaluation: Evaluation, ipc: int, trial: int) -> Batch:
    return Task(evaluation.train, evaluation.network).random_real(ipc, RNG(evaluation.seed)("random", trial))


def _trials(path: Path, count: int, run: Callable[[int], Score], header: Mapping[str, Any], subject: str) -> list[Score]:
    """All finished trials of the file at ``path``, at least ``count``: each missing one is run and added to it at once."""
    done = stored(path, read(path), subject)
    while len(done) < count:
        done.append(run(len(done)))
        content = put(path, {**header, subject: [one.model_dump(mode="json") for one in done]})
        done = stored(path, content, subject)  # another process may have stored more
    return done
