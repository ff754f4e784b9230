"""How hard images are for the teachers of a pool, each score (N,): large for hard images."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from datastill.compute import double
from datastill.data import Images
from datastill.errors import InputError, RunError
from datastill.files import reason
from datastill.functional.difficulty import error_norms, forgetting, gradient_norms, misclassified
from datastill.late import no_grad, torch
from datastill.progress import Progress
from datastill.registry import kind
from datastill.store import once
from datastill.teachers._trained import Trained
from datastill.teachers.pool import Teacher, Teachers

if TYPE_CHECKING:
    from torch import Tensor

Score = Literal["gradn", "el2n", "misclassified", "forgetting"]
SCORES: tuple[Score, ...] = get_args(Score)
FLOATS = 2**26  # of the gradients of single images that are in memory at once


def check_scores(pool: Trained | object, scores: Collection[str]) -> None:
    """Check that teachers of this pool can tell these scores, before any work. Raises InputError."""
    if "forgetting" in scores and (not isinstance(pool, Trained) or len(_epochs(pool)) < 2):
        there = ", ".join(map(str, _epochs(pool))) if isinstance(pool, Trained) else "none"
        raise InputError("forgetting counts how often an image is right after one epoch and wrong after the next, so it "
                         f"needs teachers stored after several epochs (this pool of kind {kind(type(pool))}: {there}); set "
                         "snapshots=every and more epochs for the pool, or take another score")


def _epochs(pool: Trained) -> list[int]:
    return [epoch for epoch in pool.kept if epoch]


def difficulty(teachers: Teachers, x: Tensor, y: Tensor, scores: Iterable[Score] = SCORES[:3]) -> dict[Score, Tensor]:
    """Scores of images (N, C, H, W) of the run with labels (N, K), means over all teachers of the pool, float64 on the CPU.

    gradn: norm of the gradient of the image's cross-entropy with respect to all weights, GraDN (Wang et al. 2024, def. 2)
    or GraNd (Paul et al. 2021). el2n: distance of the prediction from the label (Paul et al. 2021). misclassified: share of
    teachers that are wrong (Wang et al. 2024, def. 1). forgetting: how often a teacher was right after one stored epoch and
    wrong after the next; the number of epochs if never right (Toneva et al. 2019, there by steps). Raises InputError:
    teachers that do not know the classes, or are not stored after several epochs.
    """
    wanted = list(scores)
    check_scores(teachers.pool, wanted)
    found = [_of_one(teacher, x, y, wanted) for teacher in teachers] if {*wanted} - {"forgetting"} else []
    means: dict[Score, Tensor] = {
        name: torch.stack([one[name] for one in found]).mean(0) for name in wanted if name != "forgetting"}
    if "forgetting" in wanted:
        means["forgetting"] = _forgotten(teachers, x, y)
    return {name: means[name] for name in wanted}


def _of_one(teacher: Teacher, x: Tensor, y: Tensor, wanted: Collection[Score]) -> dict[Score, Tensor]:
    found: dict[Score, Tensor] = {}
    if {"el2n", "misclassified"} & {*wanted}:
        logits = class_logits(teacher, x)
        found = {"el2n": error_norms(logits, y), "misclassified": misclassified(logits, y)}
    if "gradn" in wanted:
        size = sum(one.numel() for one in teacher.network.parameters())
        found["gradn"] = gradient_norms(teacher.network, teacher.see(x), y, max(1, min(64, FLOATS // max(1, size))),
                                        teacher.outputs)
    return {name: double(found[name]).cpu() for name in wanted if name in found}


@no_grad
def class_logits(teacher: Teacher, x: Tensor) -> Tensor:
    """Logits (N, K) of the run's classes, in chunks of a suitable size."""
    return torch.cat([teacher.class_logits(part) for part in x.split(teacher.chunk(x))])


def _forgotten(teachers: Teachers, x: Tensor, y: Tensor) -> Tensor:
    assert isinstance(teachers.pool, Trained)
    after = [Teachers(teachers.pool.model_copy(update={"epoch": epoch}), teachers.context)
             for epoch in _epochs(teachers.pool)]
    labels, counts = y.argmax(1), []
    for number in range(len(teachers)):
        right = torch.stack([class_logits(one[number], x).argmax(1) == labels for one in after])
        counts.append(double(forgetting(right)).cpu())
    return torch.stack(counts).mean(0)


def of_real(teachers: Teachers, images: Images, score: Score, progress: Progress = Progress()) -> np.ndarray:
    """One score of all these real images, (N,) float64. Computed once, then read from ``root/difficulty``; in a dry run it
    is computed with the networks that stand in."""
    def parts() -> Iterable[np.ndarray]:
        rows = torch.arange(len(images)).split(1024)
        for number, some in enumerate(rows):
            batch = images.batch(some)
            yield difficulty(teachers, batch.x, batch.y, [score])[score].numpy()
            progress.tell(number + 1, len(rows), f"{score} of real images")

    def write(path: Path) -> None:
        found = np.concatenate(list(parts()))
        with path.open("wb") as target:
            np.save(target, found)

    check_scores(teachers.pool, [score])
    context = teachers.context
    if context.dry_run:
        return np.concatenate(list(parts()))
    if not len(images):
        raise InputError("there are no images to score")
    name = teachers.pool.digest(images.fingerprint, context.real.fingerprint, *teachers.pool.identity(context.data_root))
    path = context.root / "difficulty" / f"{score}-{name}.npy"
    try:
        return np.asarray(np.load(once(path, write)))
    except OSError as error:
        raise RunError(f"scores cannot be stored in {path}: {reason(error)}; remove what is in the way, or choose another "
                       "--root") from error
