"""Scores: train students on a distilled set and measure them, always beside random real images and chance."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from scipy import stats

from datastill.artefact import TENSORS, Distilled
from datastill.config import Description, digest, dump, load, spec
from datastill.core import Protocol, Task
from datastill.data import Batch, Images
from datastill.errors import InputError
from datastill.files import make_folder, sha256, write_json
from datastill.nets import Architecture, fresh
from datastill.nets.convnet import ConvNet
from datastill.rng import RNG
from datastill.synthetic import SyntheticSet
from datastill.train import Examples, Fixed, Watch, accuracies

Subject = Literal["synthetic", "random", "full"]
SUBJECTS: tuple[Subject, ...] = ("synthetic", "random", "full")
Follow = Callable[[Subject, int, int, int], None]  # (subject, trial, epochs done, of how many)


class Score(Description):
    """Accuracy of one student's last weights on all images of a split, as a fraction; ``per_class`` in class order."""

    trial: int = Field(ge=0)
    accuracy: float = Field(ge=0.0, le=1.0)
    per_class: tuple[float | None, ...]  # None for a class without images in the split
    seconds: float = Field(ge=0.0)


def evaluate(synthetic: SyntheticSet | Distilled | Images, protocol: Protocol | str, images: Images, *,
             network: Architecture | str = ConvNet(), trials: int = 5, seed: int = 0) -> list[Score]:
    """Train ``trials`` fresh students on the set by the protocol and measure each on ``images`` (say which split it is).

    Students of trial t start from the same weights whatever they are trained on, so that scores of different sets are
    paired. Raises InputError: the set and the images differ in classes, normalisation or shape.
    """
    if trials < 1:
        raise InputError(f"trials: expected 1 or more, got {trials}")
    protocol, network = load(Protocol, protocol), load(Architecture, network)  # type: ignore[type-abstract]
    examples = synthetic.to(images.device)
    _check_alike(examples, images)
    return [student(examples, protocol, network, images, trial, seed) for trial in range(trials)]


def student(examples: Any, protocol: Protocol, network: Architecture, images: Images, trial: int, seed: int,
            watch: Watch | None = None) -> Score:
    """Train one student and measure it. All randomness is a function of (seed, trial)."""
    rng = RNG(seed)("student", trial)
    began = time.perf_counter()
    net = fresh(network, images.shape, len(images.classes), rng("network"), images.device)
    protocol.train(net, _frozen(examples), rng("train"), watch)
    shares = accuracies(net, images)
    counts = torch.bincount(images.targets.cpu(), minlength=len(images.classes))
    accuracy = float((shares.nan_to_num() * counts).sum() / counts.sum())
    return Score(trial=trial, accuracy=accuracy, seconds=round(time.perf_counter() - began, 2),
                 per_class=tuple(None if math.isnan(v) else v for v in shares.tolist()))


def _frozen(examples: Any) -> Examples:
    """The examples without graph: students train on the images as they are."""
    if isinstance(examples, SyntheticSet):
        with torch.no_grad():
            return Fixed(examples.batch())
    return Fixed(examples) if isinstance(examples, Batch) else examples


def _check_alike(examples: SyntheticSet | Distilled | Images, images: Images) -> None:
    for what in ("classes", "mean", "std"):
        mine, theirs = tuple(getattr(examples, what)), tuple(getattr(images, what))
        if mine != theirs:
            raise InputError(f"the set and the images to score it on differ in {what}: {mine[:6]} and {theirs[:6]}; "
                             "load the data set it was distilled from")


# --- the score sheet: a file beside the artefact, with the baselines ----------------------------------------------------


class Sheet(Description):
    """What is scored and how: the description of one file in ``scores/``.

    subject: the artefact's tensors by checksum. network: of the students. split: "test", or "validation" while choosing.
    """

    subject: str
    protocol: Protocol
    network: Architecture
    fingerprint: str  # of training and of scored images
    split: Literal["test", "validation"] = "test"
    ipc: int
    seed: int = 0


def score(folder: Path, distilled: Distilled, protocol: Protocol, network: Architecture, train: Images, images: Images, *,
          split: Literal["test", "validation"] = "test", trials: int = 5, seed: int = 0, baselines: Path, full: bool = False,
          follow: Follow | None = None) -> dict[str, Any]:
    """Score an artefact beside random real images (drawn anew each trial) and, if asked, the full training data.

    Each trial is written when it is done, to ``folder/scores/<digest>.json`` and, for the baselines, to ``baselines``, where
    they are shared by all sets of that data, ipc and protocol; a second call runs only what is missing. Returns the sheet.
    """
    _check_alike(distilled, images)
    sheet = Sheet(subject=sha256(folder / TENSORS), protocol=protocol, network=network, split=split, seed=seed,
                  fingerprint=f"{train.fingerprint}-{images.fingerprint}", ipc=int(distilled.card["ipc"]))
    task = Task(train, network)
    for place in (folder / "scores", baselines):
        make_folder(place)
    wanted: list[Subject] = ["synthetic", "random", *(["full"] if full else [])]  # type: ignore[list-item]
    path = folder / "scores" / f"{digest(sheet)}.json"
    result: dict[str, Any] = {
        "schema": 1, "subject": sheet.subject, "protocol": dump(protocol), "network": spec(network),
        "split": split, "seed": seed, "ipc": sheet.ipc, "data": distilled.card["data"],
        "images": len(images), "chance": 1 / len(images.classes)}
    for subject in wanted:
        place, used = path, protocol
        if subject != "synthetic":
            used = protocol.for_full_data() if subject == "full" else protocol
            plain = sheet.model_copy(update={"subject": subject, "protocol": used,
                                             "ipc": 0 if subject == "full" else sheet.ipc})
            place = baselines / f"{subject}-{digest(plain)}.json"
        done = _trials(place, 1 if subject == "full" else trials, lambda trial, s=subject, u=used: student(  # type: ignore[misc]
            _examples(s, distilled, task, sheet.ipc, trial, seed), u, network, images, trial, seed,
            None if follow is None else lambda epoch, epochs: follow(s, trial, epoch, epochs)), result, subject)
        result[subject] = [one.model_dump(mode="json") for one in done]
    write_json(path, {**result, "summary": summary(result)})
    return {**result, "summary": summary(result)}


def _examples(subject: Subject, distilled: Distilled, task: Task, ipc: int, trial: int, seed: int) -> Any:
    if subject == "synthetic":
        return distilled
    return task.real if subject == "full" else task.random_real(ipc, RNG(seed)("random", trial))


def _trials(path: Path, count: int, run: Callable[[int], Score], header: Mapping[str, Any], subject: Subject) -> list[Score]:
    """The first ``count`` trials, those in the file at ``path`` taken from there, each new one added to it at once."""
    content = _read(path)
    done = [Score(**one) for one in content.get(subject, [])]
    for trial in range(len(done), count):
        done.append(run(trial))
        content = {**header, **content, subject: [one.model_dump(mode="json") for one in done]}
        write_json(path, content)
    return done[:count]


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is no readable score file ({error}); delete it to score again") from None


def read_sheets(folder: Path) -> list[dict[str, Any]]:
    """All finished score sheets of an artefact, by network and protocol. Raises InputError for a damaged one."""
    sheets = [_read(path) for path in sorted((folder / "scores").glob("*.json"))]
    return sorted((s for s in sheets if "summary" in s), key=lambda s: (s["split"], s["network"], json.dumps(s["protocol"])))


def summary(sheet: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Mean, sample standard deviation and number of trials of each subject (fractions), and under ``gain`` the difference
    synthetic - random, paired by trial, with its 95 % confidence interval (Student's t)."""
    accuracy: dict[str, list[float]] = {s: [one["accuracy"] for one in sheet[s]] for s in SUBJECTS if s in sheet}
    found = {s: statistics(values) for s, values in accuracy.items()}
    pairs = list(zip(accuracy.get("synthetic", []), accuracy.get("random", []), strict=False))
    if pairs:
        found["gain"] = statistics([a - b for a, b in pairs])
    return found


def statistics(values: Sequence[float]) -> dict[str, float]:
    """mean, std (n - 1), n, and the 95 % confidence interval of the mean (low, high) where n > 1."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return {"mean": mean, "std": 0.0, "n": 1}
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    return {"mean": mean, "std": std, "n": n, "low": mean - half, "high": mean + half}
