"""How hard images are: those of a dataset, and those of a run from its start to its end, beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datastill import artifact
from datastill.analysis.public import read_public
from datastill.data import Batch, Images
from datastill.errors import InputError
from datastill.functional.difficulty import gradient_norms
from datastill.late import torch
from datastill.progress import Progress
from datastill.rng import RNG
from datastill.run import Run
from datastill.running import stream
from datastill.statistics import rank_correlation
from datastill.tables import counted
from datastill.task import Task
from datastill.teachers import Teachers
from datastill.teachers._difficulty import SCORES, Score, check_scores, difficulty, of_real

if TYPE_CHECKING:
    from torch import Tensor

NOTES: dict[Score, str] = {"gradn": "gradient norm (GraDN)", "el2n": "error of the prediction (EL2N)",
                           "misclassified": "share of networks that are wrong",
                           "forgetting": "times right, then wrong after the next epoch"}


@dataclass(frozen=True, eq=False)
class Scored:
    """Images with their scores: what they are; scores by name, (N,) float64; labels (N,) class numbers; their pixels,
    (N, H, W, C) uint8."""

    name: str
    scores: dict[Score, np.ndarray]
    labels: np.ndarray
    view: Tensor

    def of_class(self, score: Score, label: int) -> np.ndarray:
        """The scores of one class."""
        return self.scores[score][self.labels == label]


@dataclass(frozen=True, eq=False)
class Difficulty:
    """What an analysis found: ``real`` images, and for a run its snapshots by iteration.

    teachers: names of the networks that told. current: mean gradient norm by iteration at the network the run itself matches
    on there, where it could be found. public: rank correlation of given scores with ours, by score.
    """

    classes: tuple[str, ...]
    teachers: list[str]
    real: Scored
    run: dict[int, Scored] = field(default_factory=dict)
    current: dict[int, float] = field(default_factory=dict)
    public: dict[Score, dict[str, Any]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def shown(self) -> dict[str, Scored]:
        """What is compared: real images, and the start and the end of a run."""
        found = {"real images": self.real}
        if self.run:
            first, last = min(self.run), max(self.run)
            found |= {"start": self.run[first], "end": self.run[last]} if last > first else {"set": self.run[last]}
        return found

    def agreement(self) -> dict[tuple[Score, Score], float]:
        """Spearman's rank correlation over the real images between every two scores, where neither is constant."""
        pairs = {(a, b): rank_correlation(self.real.scores[a].tolist(), self.real.scores[b].tolist())
                 for a, b in combinations(self.real.scores, 2)}
        return {pair: one["spearman"]["value"] for pair, one in pairs.items() if one}


def of_data(images: Images, teachers: Teachers, *, count: int = 1000, public: Path | None = None,
            progress: Progress = Progress()) -> Difficulty:
    """Scores of ``count`` random training images (0: all) under all teachers. public: a file of scores of all training
    images, in their order (see ``read_public``), to compare with. Raises InputError."""
    scores = known(teachers)
    given = None if public is None else read_public(public, images)
    rows = torch.arange(len(images)) if not count else RNG("difficulty").permutation(len(images))[:count].sort().values
    real = _of_real(images, teachers, rows, scores, progress, whole=not count)
    compared = {} if given is None else {
        name: found for name, mine in real.scores.items()
        if (found := rank_correlation(given.scores[rows.numpy()].tolist(), mine.tolist()))}
    cautions = [] if given is None or given.has_labels else [
        f"{public} has no labels, so nobody can tell if its order is that of the images"]
    if given is not None and (lacking := [name for name in scores if name not in compared]):
        cautions.append(f"no rank correlation with {', '.join(lacking)}: {counted(len(rows), 'image')} are too few, or "
                        "all have the same score; score more of them (count=0: all)")
    return Difficulty(images.classes, [one.name for one in teachers], real, public=compared, warnings=tuple(cautions))


def of_run(folder: Path, run: Run, task: Task, teachers: Teachers, *, count: int = 1000,
           progress: Progress = Progress()) -> Difficulty:
    """Scores of every snapshot of a finished run (start, end, and those kept by ``distill --keep``), and of ``count`` random
    training images. Raises InputError: no snapshots, a damaged one, teachers of other classes."""
    there, scores = artifact.read_snapshots(folder), known(teachers)
    rows = RNG("difficulty").permutation(len(task.real))[:count or len(task.real)].sort().values
    real = _of_real(task.real, teachers, rows, scores, progress.part(0, len(there) + 1, "real images"), whole=False)
    found, current = {}, {}
    for number, (iteration, tensors) in enumerate(there.items()):
        batch = Batch(tensors["images"].to(task.device), tensors["labels"].to(task.device))
        told = difficulty(teachers, batch.x, batch.y, scores)
        found[iteration] = Scored(f"iteration {iteration}", {name: one.numpy() for name, one in told.items()},
                                  batch.y.argmax(1).cpu().numpy(), tensors["view"])
        if (here := at_its_network(run, task, iteration, tensors)) is not None:
            current[iteration] = here
        progress.tell(number + 2, len(there) + 1, f"iteration {iteration}")
    return Difficulty(task.real.classes, [one.name for one in teachers], real, found, current)


def known(teachers: Teachers) -> tuple[Score, ...]:
    """The scores that teachers of this pool can tell."""
    try:
        check_scores(teachers.pool, ["forgetting"])
        return SCORES
    except InputError:
        return tuple(name for name in SCORES if name != "forgetting")


def _of_real(images: Images, teachers: Teachers, rows: Tensor, scores: Sequence[Score], progress: Progress, *,
             whole: bool) -> Scored:
    view = images.raw(rows).permute(0, 2, 3, 1).cpu()
    labels = images.targets[rows].cpu().numpy()
    if whole:
        found = {name: of_real(teachers, images, name, progress.part(number, len(scores))) for number, name in
                 enumerate(scores)}
        return Scored("real images", found, labels, view)
    parts = rows.split(256)
    told: dict[Score, list[np.ndarray]] = {name: [] for name in scores}
    for number, part in enumerate(parts):
        batch = images.batch(part)
        for name, one in difficulty(teachers, batch.x, batch.y, scores).items():
            told[name].append(one.numpy())
        progress.tell(number + 1, len(parts), "real images")
    return Scored("real images", {name: np.concatenate(some) for name, some in told.items()}, labels, view)


def at_its_network(run: Run, task: Task, iteration: int, tensors: Mapping[str, Tensor]) -> float | None:
    """Mean gradient norm of a snapshot's images at the network on which the run's next step would match them; None if the
    method takes no steps. The iteration is begun again from the snapshot, as its stream allows, up to its first step."""
    if not run.method.iterations:
        return None
    here = {name: one.to(task.device) for name, one in tensors.items()}
    synthetic = artifact.restored(here, task.real, task.codec)
    for name, parameter in synthetic.groups().items():
        parameter.requires_grad_(run.method.optim.group(name).lr > 0)
    run.method.prepare(task)
    number = min(iteration, run.method.iterations - 1)  # there is none after the last one
    rng = stream(run)("iteration", number)
    with rng("inside").as_global(task.device):
        step = next(iter(run.method.iterate(number, synthetic, task, rng("method"))), None)
    if step is None:
        return None
    batch = synthetic.batch()
    return float(gradient_norms(step.net, batch.x.detach(), batch.y.detach()).mean())
