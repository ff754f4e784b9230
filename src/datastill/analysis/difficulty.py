"""How hard images are: those of a dataset, and those of a run from its start to its end, beside each other."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datastill import artifact
from datastill.core import Task
from datastill.data import Batch, Images
from datastill.errors import InputError
from datastill.foreign import said
from datastill.functional.difficulty import gradient_norms
from datastill.late import torch
from datastill.progress import Progress
from datastill.rng import RNG
from datastill.run import Run
from datastill.running import stream
from datastill.statistics import rank_correlation
from datastill.tables import counted, shown
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
    cautions = () if given is None or given.has_labels else (
        f"{public} has no labels, so nobody can tell if its order is that of the images",)
    return Difficulty(images.classes, [one.name for one in teachers], real, public=compared, warnings=cautions)


def of_run(folder: Path, run: Run, task: Task, teachers: Teachers, *, count: int = 1000,
           progress: Progress = Progress()) -> Difficulty:
    """Scores of every snapshot of a finished run (start, end, and those kept by ``distill --keep``), and of ``count`` random
    training images. Raises InputError: no snapshots, a damaged one, teachers of other classes."""
    paths = artifact.snapshots(folder)
    if not paths:
        raise InputError(f"{folder} has no snapshots to analyze; distill keeps the first and the last in its folder "
                         "snapshots unless they are deleted, and more with --keep 100,500")
    card, scores = artifact.read_card(folder), known(teachers)
    there = {iteration: artifact.read_snapshot(path, card) for iteration, path in paths.items()}
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
    synthetic = artifact.restored(here, task.real, run.parametrization)
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


class Public:
    """Scores that somebody else published for all images of a dataset, in its order; ``has_labels``: it was checked."""

    def __init__(self, scores: np.ndarray, has_labels: bool) -> None:
        self.scores, self.has_labels = scores, has_labels


def read_public(path: Path, images: Images) -> Public:
    """Scores of these training images from a file: .npy (one number for each image); .npz (an array "scores", and "labels"
    to check the order by); .csv or .txt (a number in each line, or columns "score" and "label" under a header).

    Labels are class numbers in the order of the dataset, or names. Raises InputError: another length or order, no numbers.
    """
    scores, labels = _read_table(path)
    if len(scores) != len(images):
        raise InputError(f"{path} has {counted(len(scores), 'score')}; the data have "
                         f"{counted(len(images), 'training image')}, and need one for each, in their order (hold out "
                         "nothing: data.validation=0)")
    if not np.isfinite(scores).all():
        raise InputError(f"{path}: the score of image {int((~np.isfinite(scores)).argmax())} is not a finite number")
    if labels is not None:
        names = {name: number for number, name in enumerate(images.classes)}
        mine = images.targets.cpu().numpy()
        theirs = np.array([names.get(str(one), -1) if str(one) in names or not str(one).lstrip("-").isdigit() else int(one)
                           for one in labels])
        if (wrong := theirs != mine).any():
            first = int(wrong.argmax())
            here = f"{images.classes[mine[first]]!r} ({mine[first]})"
            raise InputError(f"{path} is in another order than the data: image {first} is {labels[first]!r} there, {here} "
                             f"here; {int(wrong.sum())} of {len(mine)} differ")
    return Public(scores, labels is not None)


def _read_table(path: Path) -> tuple[np.ndarray, list[Any] | None]:
    """Scores and labels, if there are any."""
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as content:
                names = {name.lower(): name for name in content.files}
                if not (found := [name for name in ("scores", "score") if name in names]):
                    raise InputError(f'{path} has no array "scores"; it has {", ".join(content.files) or "none"}')
                beside = [content[names[name]].tolist() for name in ("labels", "label", "targets") if name in names]
                return content[names[found[0]]].astype(float).ravel(), beside[0] if beside else None
        if path.suffix.lower() == ".npy":
            return np.load(path, allow_pickle=False).astype(float).ravel(), None
        if path.suffix.lower() in (".csv", ".txt"):
            return _read_lines(path)
    except (OSError, ValueError, TypeError, EOFError, csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as scores: {said(error)}") from None
    raise InputError(f"{path}: expected scores as .npy, .npz, .csv or .txt (pickles are not opened)")


def _read_lines(path: Path) -> tuple[np.ndarray, list[Any] | None]:
    with path.open(newline="", encoding="utf-8-sig") as text:
        lines = [line for line in csv.reader(text) if line]
    if not lines:
        raise InputError(f"{path} is empty")
    head = [one.strip().lower() for one in lines[0]]
    if len(head) == 1 and head[0] not in ("score", "scores"):
        return np.array([float(line[0]) for line in lines]), None
    column = next((head.index(name) for name in ("score", "scores") if name in head), None)
    if column is None:
        raise InputError(f"{path}: expected a column score (and label), got {shown(lines[0])}")
    place = next((head.index(name) for name in ("label", "labels", "class") if name in head), None)
    if short := next((number for number, line in enumerate(lines[1:], 2) if len(line) != len(head)), None):
        raise InputError(f"{path}, line {short}: expected {counted(len(head), 'column')}")
    return (np.array([float(line[column]) for line in lines[1:]]),
            None if place is None else [line[place].strip() for line in lines[1:]])
