"""The published selection rule: the best of a run's snapshots. A separate number, never the score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from datastill import artifact
from datastill.artifact import TENSORS
from datastill.errors import InputError
from datastill.files import sha256
from datastill.progress import Progress
from datastill.scoring import Evaluation
from datastill.sheets import SCORES, describe, place_of, put
from datastill.statistics import average
from datastill.tables import counted
from datastill.trials import own_trials

if TYPE_CHECKING:
    from datastill.distilled import Distilled


def check_snapshots(folder: Path) -> dict[int, Path]:
    """The snapshots of a set by iteration, if there are enough to choose from and all are sound. Raises InputError."""
    paths = artifact.snapshots(folder)
    if len(paths) < 3:
        raise InputError(f"{folder} has {counted(len(paths), 'snapshot')}, too few to select the best from; they are saved "
                         "during distillation, so distill again into another folder, for example with --keep 500,1000,1500")
    card = artifact.read_card(folder)
    for path in paths.values():
        artifact.read_snapshot(path, card)
    return paths


def select(folder: Path, distilled: Distilled, evaluation: Evaluation, *, scores: Path | None = None, trials: int = 5,
           progress: Progress = Progress()) -> dict[str, Any]:
    """Score every snapshot of a scored run and store the best mean in its sheet, under ``selected``.

    MTT and the papers after it report that number: the maximum over evaluations during distillation, on the images it is
    reported on. It overestimates the set, more so with more snapshots and fewer trials.

    Returns {split, of (number of snapshots), iteration (of the best), accuracy (its trials, fractions), means (by
    iteration)}. Raises InputError: no snapshot but the first and the last, or a set that was not scored this way before.
    """
    from datastill.distilled import Distilled

    paths = check_snapshots(folder)
    scores = scores or folder / SCORES
    own = place_of(scores, describe(sha256(folder / TENSORS), distilled, evaluation))
    if not own.exists():
        raise InputError(f"{folder} has not been scored by this protocol yet; score it before its snapshots")
    found: dict[int, list[float]] = {}
    for number, (iteration, path) in enumerate(paths.items()):
        tensors = artifact.read_snapshot(path, distilled.card)
        one = Distilled(tensors, distilled.card, distilled.whitening).to(distilled.device)
        sheet = describe(sha256(path), one, evaluation)
        part = progress.part(number, len(paths), "snapshots")
        found[iteration] = [s.accuracy for s in own_trials(scores, sheet, one, evaluation, trials, part)]
    means = {iteration: average(accuracies) for iteration, accuracies in found.items()}
    best = max(means, key=lambda iteration: means[iteration])
    selected = {"split": evaluation.split, "of": len(paths), "iteration": best, "accuracy": found[best], "means": means}
    put(own, {"selected": selected})
    return selected
