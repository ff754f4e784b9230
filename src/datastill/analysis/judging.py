"""How well a pool of teachers recognizes a synthetic set while it is being distilled."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar, NamedTuple

from datastill import artifact
from datastill.analysis.meta_features import check_networks, maps_of
from datastill.description import Description
from datastill.digest import digest, spec
from datastill.errors import InputError
from datastill.files import sha256
from datastill.functional.invariance import masks
from datastill.late import F, no_grad, torch
from datastill.progress import Progress
from datastill.run import Run
from datastill.store import read_record, write_record
from datastill.teachers import Context, Pool, Teacher, Teachers
from datastill.teachers._difficulty import class_logits, difficulty
from datastill.teachers._names import outputs_for


class Judged(NamedTuple):
    """Mean over a pool's teachers at an iteration: cross-entropy (nats), accuracy (a fraction) and gradient norm of an image
    (GraDN, see ``functional.difficulty``) of the synthetic set. Of their activation maps, if they are of several
    architectures that have such maps: ``overlap``, where all see the class as a share of where any does, ``common``, the
    same over images in which all see something, None if there are none, and ``empty``, the share of maps in which nothing
    is seen (see ``functional.invariance.Masks``)."""

    iteration: int
    cross_entropy: float
    accuracy: float
    gradn: float
    overlap: float | None = None
    common: float | None = None
    empty: float | None = None


class Judgement(Description):
    """What determines a judgement: the snapshots by checksum, the pool, and the digests of its teachers."""

    version: ClassVar[int] = 4  # 2: gradient norms too; 3: overlap of maps too; 4: empty maps too

    subject: tuple[str, ...]
    pool: Pool
    teachers: tuple[str, ...]


def check_judges(pool: Pool, context: Context) -> None:
    """Check that teachers of this pool can judge sets of this data, before any are trained. Raises InputError."""
    pool.check(context)
    for group in range(len(pool.networks)):
        try:
            outputs_for(pool.domain(context, group).classes, context.real.classes)
        except InputError as error:
            raise InputError(f"judges of kind {spec(pool.networks[group])} cannot judge these sets: {error}; choose "
                             "teachers of the run's data") from None


def judge(folder: Path, run: Run, teachers: Teachers, progress: Progress = Progress()) -> list[Judged]:
    """Show a run's snapshots (its start, its end, and those that were saved) to every teacher of a pool.

    Stored in ``folder/analysis``, so that it is measured once. Raises InputError: a run without snapshots, teachers of other
    classes.
    """
    paths = artifact.sound_snapshots(folder)  # a damaged one is named before any is judged
    card, members = artifact.read_card(folder), list(teachers)
    judgement = Judgement(subject=tuple(sha256(path) for path in paths.values()), pool=teachers.pool,
                          teachers=tuple(str(teacher.facts.get("digest", teacher.name)) for teacher in members))
    place = folder / "analysis" / f"judged-{digest(judgement)}.json"
    if (known := read_record(place, "delete it to judge again")) is not None:
        return [Judged(**one) for one in known["judged"]]
    looking = _look(teachers)
    judged: list[Judged] = []
    for iteration, path in paths.items():
        progress.tell(len(judged), len(paths), f"iteration {iteration}")
        judged.append(_one(iteration, artifact.read_snapshot(path, card), teachers, looking))
    progress.tell(len(paths), len(paths))
    place.parent.mkdir(exist_ok=True)
    write_record(place, {"teachers": [teacher.name for teacher in members], "judged": [j._asdict() for j in judged]})
    return judged


def _look(teachers: Teachers) -> bool:
    """Whether their maps can be compared."""
    try:
        check_networks(teachers.pool, teachers.context)
    except InputError:
        return False
    return True


def _one(iteration: int, tensors: dict[str, torch.Tensor], teachers: Teachers, looking: bool) -> Judged:
    device = teachers.context.real.device
    x, y = tensors["images"].to(device), tensors["labels"].to(device)
    entropies = [_entropy(teacher, x, y) for teacher in teachers]
    found = difficulty(teachers, x, y, ["misclassified", "gradn"])
    judged = Judged(iteration, sum(entropies) / len(entropies), 1 - float(found["misclassified"].mean()),
                    float(found["gradn"].mean()))
    if not looking:
        return judged
    seen = masks(torch.stack([maps_of(one, x, y.argmax(1)) for one in teachers]))
    overlap, common = (None if math.isnan(share) else share for share in (seen.overlap, seen.common))
    return judged._replace(overlap=overlap, common=common, empty=seen.empty_share)


@no_grad
def _entropy(teacher: Teacher, x: torch.Tensor, y: torch.Tensor) -> float:
    return float(F.cross_entropy(class_logits(teacher, x), y))
