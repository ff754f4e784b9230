"""Score sheets: a file beside the artifact, its scores always beside those of random real images and chance."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from datastill.artifact import TENSORS, Distilled
from datastill.core import Labeler, Protocol, Task
from datastill.data import Batch, Images
from datastill.description import Description, explain
from datastill.digest import digest, dump, spec
from datastill.errors import InputError
from datastill.files import make_folder, sha256, write_json
from datastill.nets import Architecture
from datastill.rng import RNG
from datastill.scoring import Score, check, check_alike, guessing, learned_lr, statistics, student

Split = Literal["test", "validation"]
Subject = Literal["synthetic", "random", "full"]
SUBJECTS: tuple[Subject, ...] = ("synthetic", "random", "full")
Follow = Callable[[Subject, int, int, int], None]  # (subject, trial, epochs done, of how many)


class Sheet(Description):
    """What is scored and how: the description of one file in ``scores/``.

    subject: the artifact's tensors by checksum. network: of the students. split: "test", or "validation" while choosing.
    """

    subject: str
    protocol: Protocol
    network: Architecture
    fingerprint: str  # of training and of scored images
    split: Split = "test"
    ipc: int
    seed: int = 0


class Selected(Description):
    """What the published selection rule chose: of so many snapshots the one of this iteration, with its trials' accuracies;
    means by iteration (``selection.py``)."""

    split: Split
    of: int = Field(ge=1)
    iteration: int = Field(ge=0)
    accuracy: tuple[float, ...] = Field(min_length=1)
    means: dict[int, float]


def score(folder: Path, distilled: Distilled, protocol: Protocol, network: Architecture, train: Images, images: Images, *,
          split: Split = "test", trials: int = 5, seed: int = 0, baselines: Path, full: bool = False,
          labeler: Labeler | None = None, follow: Follow | None = None) -> dict[str, Any]:
    """Score an artifact beside random real images (drawn again each trial) and, if asked, the full training data.

    labeler: gives the random images soft labels, where the set's are soft.

    Each trial is written when it is done, to ``folder/scores/<digest>.json`` and, for the baselines, to ``baselines``, where
    they are shared by all sets of that data, ipc and protocol; a second call runs only what is missing, and nothing that was
    ever measured is dropped. Returns the sheet, of all finished trials. Raises InputError as ``evaluate``.
    """
    check_alike(distilled, images)
    check(network, images)
    sheet = describe(sha256(folder / TENSORS), distilled, protocol, network, train, images, split, seed)
    for place in (folder / "scores", baselines):
        make_folder(place)
    path = place_of(folder, sheet)
    before = _read(path)
    about = {"data": distilled.card["data"], "images": len(images), "chance": 1 / len(images.classes)}
    soft = labeler is not None and distilled.card["labels"] == "soft"
    labels = {"synthetic": distilled.card["labels"], "random": "soft" if soft else "hard"}
    result: dict[str, Any] = {**_facts(sheet), **about, "labels": labels}
    for subject in SUBJECTS:
        own = _of(subject, sheet, labeler if soft else None)
        place = path if subject == "synthetic" else baselines / f"{subject}-{digest(own)}.json"
        count = (1 if full else 0) if subject == "full" else trials
        run = partial(_run, subject, own, distilled, Task(train, network), images, follow, labeler if soft else None)
        done = _trials(place, count, run, {**_facts(own), **about}, subject)
        if done and (subject != "full" or full or "full" in _read(path)):
            result[subject] = [one.model_dump(mode="json") for one in done]
    result |= {"summary": summary(result), **({"selected": before["selected"]} if "selected" in before else {})}
    result |= {"flags": flags(result)}
    write_json(path, result)
    return result


def scored(folder: Path, distilled: Distilled, protocol: Protocol, network: Architecture, train: Images, images: Images, *,
           split: Split = "test", seed: int = 0) -> int:
    """How many trials ``score`` has of the set in the folder. Raises InputError for a damaged sheet."""
    sheet = describe(sha256(folder / TENSORS), distilled, protocol, network, train, images, split, seed)
    return len(_read(place_of(folder, sheet)).get("synthetic", []))


def describe(subject: str, distilled: Distilled, protocol: Protocol, network: Architecture, train: Images, images: Images,
             split: Split, seed: int) -> Sheet:
    """The description of the sheet of a set whose tensors have the checksum ``subject``."""
    return Sheet(subject=subject, protocol=protocol.for_network(network).for_set(learned_lr(distilled)),
                 network=network, split=split, seed=seed, fingerprint=f"{train.fingerprint}-{images.fingerprint}",
                 ipc=int(distilled.card["ipc"]))


def place_of(folder: Path, sheet: Sheet) -> Path:
    """Where the trials of a set of this run are kept."""
    return folder / "scores" / f"{digest(sheet)}.json"


def own_trials(folder: Path, sheet: Sheet, distilled: Distilled, train: Images, images: Images, trials: int,
               watch: Callable[[int, int, int], None] | None = None) -> list[Score]:
    """The trials of a sheet's own set, without baselines; the missing ones are run and kept. ``watch`` is told of (trial,
    epochs done, of how many)."""
    make_folder(folder / "scores")
    follow = None if watch is None else lambda subject, trial, done, of: watch(trial, done, of)
    run = partial(_run, "synthetic", sheet, distilled, Task(train, sheet.network), images, follow, None)
    return _trials(place_of(folder, sheet), trials, run, {**_facts(sheet), "images": len(images)}, "synthetic")[:trials]


def random_real(protocol: Protocol, network: Architecture, train: Images, images: Images, ipc: int, *,
                split: Split, baselines: Path, trials: int = 5, seed: int = 0,
                follow: Follow | None = None) -> list[Score]:
    """Score random real training images alone, drawn again each trial: the baseline every sheet has, kept in the same file.

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


def _of(subject: Subject, sheet: Sheet, labeler: Labeler | None) -> Sheet:
    """The description of a baseline: shared by all sets of the same data and, for random images, of the same ipc."""
    if subject == "synthetic":
        return sheet
    if subject == "random":
        return sheet.model_copy(update={"subject": "random" if labeler is None else f"random, {labeler.name}"})
    return sheet.model_copy(update={"subject": subject, "ipc": 0, "protocol": sheet.protocol.for_full_data()})


def _facts(sheet: Sheet) -> dict[str, Any]:
    """What a score file says of itself."""
    return {"schema": 1, "subject": sheet.subject, "protocol": dump(sheet.protocol), "network": spec(sheet.network),
            "split": sheet.split, "seed": sheet.seed, "ipc": sheet.ipc}


def _run(subject: Subject, sheet: Sheet, distilled: Distilled, task: Task, images: Images, follow: Follow | None,
         labeler: Labeler | None, trial: int) -> Score:
    """One student of one subject."""
    examples = _examples(subject, distilled, task, sheet.ipc, trial, sheet.seed)
    if subject == "random" and labeler is not None:
        examples = Batch(examples.x, labeler.label(examples))
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
    except ValidationError as error:
        raise _unreadable(path, explain(error, subject)) from None
    except TypeError as error:
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
    if "selected" in content:
        try:
            Selected(**content["selected"])
        except (TypeError, ValidationError):
            raise _unreadable(path, "selected is not what was written") from None
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


def flags(sheet: Mapping[str, Any]) -> list[str]:
    """What is wrong with a score, in words, best known first: the sanity floor. An empty list where nothing is.

    At chance: the mean is within two standard deviations of what guessing gives on so many images, or less than a tenth
    above chance. Below random real images: the mean paired gain is negative. (Both thresholds are ours.) Compared with
    random real images under other labels.
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
    labels = sheet.get("labels", {})
    if labels.get("synthetic") == "soft" and labels.get("random") == "hard":
        flagged.append("the set has soft labels, random real images hard ones: the teachers that gave them are not here")
    return flagged
