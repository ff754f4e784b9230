"""Scores: train students on a distilled set and measure them, always beside random real images and chance."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
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
    protocol = protocol.for_network(network).for_set(learned_lr(synthetic))
    _check_alike(examples, images)
    check(network, images)
    return [student(examples, protocol, network, images, trial, seed) for trial in range(trials)]


def learned_lr(examples: Any) -> float | None:
    """The step size that was learned with a set, if one was."""
    lr = getattr(examples, "lr", None)
    return None if lr is None else float(lr)


def check(network: Architecture, images: Images) -> None:
    """See that students of this kind can be scored on these images. Raises InputError, before anything is trained."""
    if not len(images):
        raise InputError("there are no images to score on")
    probe = fresh(network, images.shape, len(images.classes), RNG("check"), images.device).eval()
    with torch.no_grad():
        logits = probe(images.batch(torch.tensor([0])).x)
    if logits.shape != (1, len(images.classes)):
        raise InputError(f"network {spec(network)} gives an output of shape {tuple(logits.shape[1:])} for an image; "
                         f"expected ({len(images.classes)},), one number a class")


def check_ipc(real: Images, ipc: int) -> None:
    """See that every class has so many images. Raises InputError."""
    smallest = min(range(len(real.classes)), key=lambda c: len(real.of_class[c]))
    if (there := len(real.of_class[smallest])) < ipc:
        raise InputError(f"ipc {ipc} is more than the {there} training images of class {real.classes[smallest]!r}; "
                         f"use ipc={there} or less")


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
    ours, others = ("none" if w is None else w.identity for w in (examples.whitening, images.whitening))
    if ours != others:
        raise InputError(f"the set and the images to score it on differ in ZCA whitening: {ours} and {others}; load the "
                         f"data it was distilled from, with data.zca={'false' if ours == 'none' else 'true'}")
    shape = examples.shape if isinstance(examples, Images) else tuple(examples.batch().x.shape[1:])
    if shape != images.shape:
        raise InputError(f"the set and the images to score it on differ in shape: {shape} and {images.shape}")


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
    they are shared by all sets of that data, ipc and protocol; a second call runs only what is missing, and nothing that was
    ever measured is dropped. Returns the sheet, of all finished trials. Raises InputError as ``evaluate``.
    """
    _check_alike(distilled, images)
    check(network, images)
    sheet = _sheet(folder, distilled, protocol, network, train, images, split, seed)
    for place in (folder / "scores", baselines):
        make_folder(place)
    path = folder / "scores" / f"{digest(sheet)}.json"
    about = {"data": distilled.card["data"], "images": len(images), "chance": 1 / len(images.classes)}
    result: dict[str, Any] = {**_facts(sheet), **about}
    for subject in SUBJECTS:
        own = _of(subject, sheet)
        place = path if subject == "synthetic" else baselines / f"{subject}-{digest(own)}.json"
        count = (1 if full else 0) if subject == "full" else trials
        run = partial(_run, subject, own, distilled, Task(train, network), images, follow)
        done = _trials(place, count, run, {**_facts(own), **about}, subject)
        if done and (subject != "full" or full or "full" in _read(path)):
            result[subject] = [one.model_dump(mode="json") for one in done]
    result |= {"summary": summary(result)}
    result |= {"flags": flags(result)}
    write_json(path, result)
    return result


def scored(folder: Path, distilled: Distilled, protocol: Protocol, network: Architecture, train: Images, images: Images, *,
           split: Literal["test", "validation"] = "test", seed: int = 0) -> int:
    """How many trials ``score`` has of the set in the folder. Raises InputError for a damaged sheet."""
    sheet = _sheet(folder, distilled, protocol, network, train, images, split, seed)
    return len(_read(folder / "scores" / f"{digest(sheet)}.json").get("synthetic", []))


def _sheet(folder: Path, distilled: Distilled, protocol: Protocol, network: Architecture, train: Images, images: Images,
           split: Literal["test", "validation"], seed: int) -> Sheet:
    return Sheet(subject=sha256(folder / TENSORS), protocol=protocol.for_network(network).for_set(learned_lr(distilled)),
                 network=network, split=split, seed=seed, fingerprint=f"{train.fingerprint}-{images.fingerprint}",
                 ipc=int(distilled.card["ipc"]))


def random_real(protocol: Protocol, network: Architecture, train: Images, images: Images, ipc: int, *,
                split: Literal["test", "validation"], baselines: Path, trials: int = 5, seed: int = 0,
                follow: Follow | None = None) -> list[Score]:
    """Score random real training images alone, drawn anew each trial: the baseline every sheet has, kept in the same file.

    Raises InputError as ``evaluate``, RunError where a student diverges; the trials before that are kept.
    """
    check(network, images)
    make_folder(baselines)
    protocol = protocol.for_network(network).for_set(None)
    sheet = Sheet(subject="random", protocol=protocol, network=network, split=split, seed=seed, ipc=ipc,
                  fingerprint=f"{train.fingerprint}-{images.fingerprint}")
    task = Task(train, network)

    def run(trial: int) -> Score:
        watch = None if follow is None else partial(follow, "random", trial)
        return student(_random(task, ipc, trial, seed), sheet.protocol, network, images, trial, seed, watch)

    about = {"images": len(images), "chance": 1 / len(images.classes)}
    return _trials(baselines / f"random-{digest(sheet)}.json", trials, run, {**_facts(sheet), **about}, "random")[:trials]


def _of(subject: Subject, sheet: Sheet) -> Sheet:
    """The description of a baseline: shared by all sets of the same data and, for random images, of the same ipc."""
    if subject == "synthetic":
        return sheet
    if subject == "random":
        return sheet.model_copy(update={"subject": subject})
    return sheet.model_copy(update={"subject": subject, "ipc": 0, "protocol": sheet.protocol.for_full_data()})


def _facts(sheet: Sheet) -> dict[str, Any]:
    """What a score file says of itself."""
    return {"schema": 1, "subject": sheet.subject, "protocol": dump(sheet.protocol), "network": spec(sheet.network),
            "split": sheet.split, "seed": sheet.seed, "ipc": sheet.ipc}


def _run(subject: Subject, sheet: Sheet, distilled: Distilled, task: Task, images: Images, follow: Follow | None,
         trial: int) -> Score:
    """One student of one subject."""
    examples = _examples(subject, distilled, task, sheet.ipc, trial, sheet.seed)
    watch = None if follow is None else partial(follow, subject, trial)
    return student(examples, sheet.protocol, sheet.network, images, trial, sheet.seed, watch)


def _examples(subject: Subject, distilled: Distilled, task: Task, ipc: int, trial: int, seed: int) -> Any:
    if subject == "synthetic":
        return distilled
    return task.real if subject == "full" else _random(task, ipc, trial, seed)


def _random(task: Task, ipc: int, trial: int, seed: int) -> Batch:
    return task.random_real(ipc, RNG(seed)("random", trial))


def _trials(path: Path, count: int, run: Callable[[int], Score], header: Mapping[str, Any], subject: Subject) -> list[Score]:
    """All finished trials of the file at ``path``, at least ``count``: each missing one is run and added to it at once."""
    content = _read(path)
    done = _stored(path, content, subject)
    for trial in range(len(done), count):
        done.append(run(trial))
        content = {**content, **header, subject: [one.model_dump(mode="json") for one in done]}
        write_json(path, content)
    return done


def _stored(path: Path, content: Mapping[str, Any], subject: str) -> list[Score]:
    """The trials of one subject in a score file. Raises InputError when they are no trials."""
    try:
        done = [Score(**one) for one in content.get(subject, [])]
    except (TypeError, ValidationError) as error:
        raise _unreadable(path, error) from None
    if [one.trial for one in done] != list(range(len(done))):
        raise _unreadable(path, "its trials are not numbered 0, 1, 2, ...")
    return done


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(content, dict):
        raise _unreadable(path, "expected a table")
    return content


def _unreadable(path: Path, why: object) -> InputError:
    return InputError(f"{path} is no readable score file ({' '.join(str(why).split())}); delete it to score again")


def read_sheets(folder: Path) -> list[dict[str, Any]]:
    """All finished score sheets of the set that lies in the folder now, by split, network and protocol.

    Sheets of another set (left from before, or copied there) are left out. Raises InputError for a damaged one.
    """
    subject = sha256(folder / TENSORS)
    found = []
    for path in sorted((folder / "scores").glob("*.json")):
        sheet = _read(path)
        if "summary" not in sheet or sheet.get("subject") != subject:
            continue
        if missing := [key for key in ("split", "network", "protocol", "chance", "synthetic") if key not in sheet]:
            raise _unreadable(path, f"{missing[0]} is missing")
        for name in SUBJECTS:
            _stored(path, sheet, name)
        sheet |= {"summary": summary(sheet)}
        found.append({**sheet, "flags": flags(sheet)})
    return sorted(found, key=lambda s: (s["split"], s["network"], json.dumps(s["protocol"])))


def summary(sheet: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Mean, sample standard deviation and number of trials of each subject (fractions), and under ``gain`` the difference
    synthetic - random, paired by trial, with its 95 % confidence interval (Student's t)."""
    accuracy: dict[str, list[float]] = {s: [one["accuracy"] for one in sheet[s]] for s in SUBJECTS if s in sheet}
    found = {s: statistics(values) for s, values in accuracy.items()}
    pairs = list(zip(accuracy.get("synthetic", []), accuracy.get("random", []), strict=False))
    if pairs:
        found["gain"] = statistics([a - b for a, b in pairs])
    return found


def guessing(chance: float, images: int) -> float:
    """The accuracy up to which a student is no better than guessing on so many images."""
    return chance + max(2 * math.sqrt(chance * (1 - chance) / max(1, images)), 0.1 * chance)


def flags(sheet: Mapping[str, Any]) -> list[str]:
    """What is wrong with a score, in words, best known first: the sanity floor. An empty list where nothing is.

    At chance: the mean is within two standard deviations of what guessing gives on so many images, or less than a tenth
    above chance. Below random real images: the mean paired gain is negative. (Both thresholds are ours.)
    """
    found, floor = sheet["summary"], guessing(sheet["chance"], sheet["images"])
    flagged = []
    if found["synthetic"]["mean"] <= floor:
        flagged.append("no better than guessing")
    if "random" in found and found["random"]["mean"] <= floor:
        flagged.append("random real images no better than guessing: this protocol does not train this network")
    gain = found.get("gain")
    if gain and gain["mean"] < 0:
        undecided = gain["n"] == 1 or gain["high"] >= 0
        flagged.append("below random real images" + (
            "" if not undecided else " in a single trial" if gain["n"] == 1 else ", but the interval includes 0"))
    return flagged


def statistics(values: Sequence[float]) -> dict[str, float]:
    """mean, std (n - 1), n, and the 95 % confidence interval of the mean (low, high) where n > 1."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return {"mean": mean, "std": 0.0, "n": 1}
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    return {"mean": mean, "std": std, "n": n, "low": mean - half, "high": mean + half}
