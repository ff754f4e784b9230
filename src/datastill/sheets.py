"""Score sheets: a file beside the artifact, with its scores always next to those of random real images and chance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from datastill.artifact import TENSORS, verified
from datastill.core import Protocol
from datastill.description import Description
from datastill.digest import digest, dump, spec
from datastill.errors import InputError
from datastill.files import sha256
from datastill.nets import Architecture
from datastill.scoring import Evaluation, Score, Split, guessing, learned_lr
from datastill.statistics import average, statistics
from datastill.store import locked, read_record, write_record
from datastill.tables import counted

if TYPE_CHECKING:
    from datastill.distilled import Distilled

SCORES = "scores"  # in the folder of a set, unless its scores are stored elsewhere
Subject = Literal["synthetic", "random", "full"]
SUBJECTS: tuple[Subject, ...] = ("synthetic", "random", "full")
CONTROLS = "controls"  # entry of other sets under the same protocol, and random images under others, by name
MAY_NOT = "this protocol may not train this network"
FEW, FEW_OF_CLASS = 100, 25  # scored images, in all or of a class: two standard errors of an accuracy are 10 and 20 points


class Sheet(Description):
    """What is scored and how: the description of one file in ``scores/``.

    subject: the artifact's tensors by checksum. network: of the students. split: "test", or "validation" while tuning.
    """

    subject: str
    protocol: Protocol
    network: Architecture
    fingerprint: str  # of training and of scored images
    split: Split = "test"
    ipc: int
    seed: int = 0
    teachers: tuple[str, ...] = ()  # what determines those the protocol asks, besides its description and the data


class Selected(Description):
    """What the published selection rule selected: the number of snapshots, the iteration of the best one, the accuracies of
    its trials; means by iteration (``selection.py``)."""

    split: Split
    of: int = Field(ge=1)
    iteration: int = Field(ge=0)
    accuracy: tuple[float, ...] = Field(min_length=1)
    means: dict[int, float]


def describe(subject: str, distilled: Distilled, evaluation: Evaluation) -> Sheet:
    """The description of the sheet of a set whose tensors have the checksum ``subject``."""
    protocol = evaluation.protocol_for(learned_lr(distilled))
    return Sheet(subject=subject, protocol=protocol, network=evaluation.network, split=evaluation.split,
                 seed=evaluation.seed, fingerprint=evaluation.fingerprint, ipc=int(distilled.card["ipc"]),
                 teachers=evaluation.teachers(protocol))


def place_of(scores: Path, sheet: Sheet) -> Path:
    """The file of a sheet in a folder of scores."""
    return scores / f"{digest(sheet)}.json"


def scored(folder: Path, distilled: Distilled, evaluation: Evaluation) -> int:
    """The number of finished trials of the set in the folder. Raises InputError for a damaged sheet."""
    sheet = describe(sha256(folder / TENSORS), distilled, evaluation)
    return len(read(place_of(folder / SCORES, sheet)).get("synthetic", []))


def facts(sheet: Sheet) -> dict[str, Any]:
    """What a score file records about itself."""
    return {"schema": 2, "subject": sheet.subject, "protocol": dump(sheet.protocol), "network": spec(sheet.network),
            "split": sheet.split, "seed": sheet.seed, "ipc": sheet.ipc}


def stored(path: Path, content: Mapping[str, Any], subject: str) -> list[Score]:
    """The trials of one subject in a score file. Raises InputError if they are not trials."""
    try:
        done = [Score(**one) for one in content.get(subject, [])]
    except (InputError, TypeError) as error:
        raise _unreadable(path, f"{subject}: {error}") from None
    if [one.trial for one in done] != list(range(len(done))):
        raise _unreadable(path, "its trials are not numbered 0, 1, 2, ...")
    return done


def read(path: Path) -> dict[str, Any]:
    """The content of a score file; empty if there is none. Raises InputError for a damaged one."""
    if not path.exists():
        return {}
    content = _of_schema_1(path) or read_record(path, "delete it to score again") or {}
    if "selected" in content:
        try:
            Selected(**content["selected"])
        except (TypeError, InputError):
            raise _unreadable(path, "its entry selected is not valid") from None
    return {key: value for key, value in content.items() if key != "checksum"}


def put(path: Path, found: Mapping[str, Any], *, whole: bool = False) -> dict[str, Any]:
    """Add to a score file, or create it; ``whole`` adds the summary that makes it a sheet. Returns its content.

    Nothing that another process stored meanwhile is lost: entries that are not in ``found`` stay, and of two lists of
    trials, which are the same trials, the longer one.
    """
    with locked(path.parent, wait=True):
        there = read(path)
        content = {**there, **found}
        content |= {str(name): there[name] for name in SUBJECTS if len(there.get(name, ())) > len(found.get(name, ()))}
        if known := {**there.get(CONTROLS, {}), **found.get(CONTROLS, {})}:
            content[CONTROLS] = {name: max((one.get(CONTROLS, {}).get(name, []) for one in (found, there)), key=len)
                                 for name in known}
        if whole:
            content |= {"summary": summary(content)}
            content |= {"flags": flags(content)}
        write_record(path, content)
    return content


def _of_schema_1(path: Path) -> dict[str, Any] | None:
    """What an earlier version wrote, which gave score files no checksum; None for any other file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.get("schema") == 1 and "checksum" not in content else None


def _unreadable(path: Path, why: object) -> InputError:
    return InputError(f"{path} is not a readable score file ({' '.join(str(why).split())}); delete it to score again")


def read_sheets(folder: Path, scores: Path | None = None) -> list[dict[str, Any]]:
    """All finished score sheets of the set that is in the folder now, by split, network and protocol.

    scores: the folder they are in; by default ``scores`` beside the set.

    Sheets of another set (left from before, or copied there) are left out. Raises InputError for a damaged one, or if the
    set is damaged.
    """
    card = verified(folder)
    subject = card["files"][TENSORS]
    found = []
    for path in sorted((scores or folder / SCORES).glob("*.json")):
        sheet = read(path)
        if "summary" not in sheet or sheet.get("subject") != subject:
            continue
        if missing := [key for key in ("split", "network", "protocol", "chance", "synthetic") if key not in sheet]:
            raise _unreadable(path, f"{missing[0]} is missing")
        for name in SUBJECTS:
            stored(path, sheet, name)
        for name in sheet.get(CONTROLS, {}):
            stored(path, sheet[CONTROLS], name)
        sheet |= {"summary": summary(sheet)}
        found.append({**sheet, "flags": flags(sheet)})
    return sorted(found, key=lambda s: (s["split"], s["network"], json.dumps(s["protocol"])))


def summary(sheet: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Mean, sample standard deviation and number of trials of each subject (fractions), its mean balanced accuracy and
    AUROC, and under ``gain`` the difference synthetic - random, paired by trial, with its 95 % confidence interval
    (Student's t); in it under ``balanced`` the same of balanced accuracy."""
    found: dict[str, dict[str, Any]] = {}
    for subject in (s for s in SUBJECTS if s in sheet):
        measured = {what: _measured(sheet[subject], what) for what in ("accuracy", "balanced", "auroc")}
        found[subject] = statistics(measured.pop("accuracy")) | {
            what: average(values) for what, values in measured.items() if values}
    for what in ("accuracy", "balanced"):
        pairs = zip(*(_measured(sheet.get(subject, ()), what) for subject in ("synthetic", "random")), strict=False)
        if differences := [a - b for a, b in pairs]:
            gain = statistics(differences)
            found["gain"] = gain if what == "accuracy" else {**found["gain"], what: gain}
    if CONTROLS in sheet:
        found[CONTROLS] = {name: _against(sheet["synthetic"], trials) for name, trials in sheet[CONTROLS].items()}
    if best := [one["best"] for one in sheet.get("synthetic", ()) if one.get("best") is not None]:
        found["best"] = statistics(best)
    return found


def _against(trials: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The accuracy of a control, and under ``gain`` what the set has more, paired by trial."""
    mine, theirs = (_measured(one, "accuracy") for one in (trials, others))
    return {**statistics(theirs), "gain": statistics([a - b for a, b in zip(mine, theirs, strict=False)])}


def _measured(trials: Sequence[Mapping[str, Any]], what: str) -> list[float]:
    """The accuracy, balanced accuracy or AUROC of each trial, where it is known."""
    if what != "balanced":
        return [one[what] for one in trials if one.get(what) is not None]
    known = [[v for v in one.get("per_class", ()) if v is not None] for one in trials]
    return [average(one) for one in known if one]


def imbalance(sheet: Mapping[str, Any]) -> tuple[str, float]:
    """The class most of the scored images are of and its share, if that is a tenth above chance or more; else "" and 0."""
    name, share = sheet.get("largest", ("", 0.0))
    return (name, share) if share > 1.1 * sheet["chance"] else ("", 0.0)


def flags(sheet: Mapping[str, Any]) -> list[str]:
    """Problems with a score, in words, best known first: the sanity floor. An empty list if there are none.

    At chance: the mean is within two standard deviations of what guessing gives on this many images, or less than a tenth
    above chance. No better than always answering the largest class, if the images are of some classes more than of others.
    Below random real images: the mean paired gain is negative. Not held out: more than one in a hundred of the scored images
    are training images too. Compared with random real images under other labels. Too few images scored, or of a class where
    classes differ in size. Images of the set that repeat others. (The thresholds are ours.)
    """
    found, floor = sheet["summary"], guessing(sheet["chance"], sheet["images"])
    flagged = []
    if found["synthetic"]["mean"] <= floor:
        flagged.append("no better than guessing")
    elif (share := imbalance(sheet)[1]) and found["synthetic"]["mean"] < share + 1e-9:
        balanced = found["synthetic"].get("balanced", 0.0)
        though = f", though balanced accuracy, {100 * balanced:.1f} %, is above chance"
        flagged.append(f"no better than always answering the largest class ({100 * share:.1f} % of the images)" + (
            though if balanced > guessing(sheet["chance"], sheet["images"]) else ""))
    if "random" in found and found["random"]["mean"] <= floor:
        flagged.append("random real images no better than guessing" + (
            f": {MAY_NOT}" if all(found[name]["mean"] <= floor for name in SUBJECTS if name in found) else ""))
    gain = found.get("gain")
    if gain and gain["mean"] < 0:
        undecided = gain["n"] == 1 or gain["high"] >= 0
        flagged.append("below random real images" + (
            "" if not undecided else " in a single trial" if gain["n"] == 1 else ", but the interval includes 0"))
    flagged += _no_better(found)
    if (known := sheet.get("repeated") or 0) > sheet["images"] / 100:
        are = "is a training image" if known == 1 else "are training images"
        flagged.append(f"{known} of the {sheet['images']} scored images {are} too")
    labels = sheet.get("labels", {})
    if labels.get("synthetic") == "soft" and labels.get("random") == "hard":
        flagged.append("the set has soft labels, random real images have hard ones: the teachers that gave them are missing")
    flagged += _few(sheet)
    if copies := sheet.get("copies"):
        flagged.append(f"{copies} of the set's images {'repeats' if copies == 1 else 'repeat'} another one")
    return flagged


def _no_better(found: Mapping[str, Any]) -> list[str]:
    """Where teachers label everything: what real images do as well as the set under the same labels."""
    if CONTROLS not in found:
        return []
    gains = {"random real images": found.get("gain")} | {
        f"images chosen by {name}": one["gain"] for name, one in found[CONTROLS].items() if "," not in name}
    known = {name: gain for name, gain in gains.items() if gain}
    return [f"no better than {name} under the same labels" for name, gain in known.items()
            if gain["mean"] <= 0 or gain.get("low", gain["mean"]) <= 0]


RULES = {"none": "", "last_fifth": "best of the last fifth of the epochs", "prefixes": "best running mean over batches"}
NAMES = {"random": "random real images", "herding": "images chosen by herding", "k_center": "images chosen by k-center"}


def control(name: str) -> str:
    """A control in words: ``herding, hard labels``."""
    images, _, labels = name.partition(", ")
    return f"{NAMES.get(images, images)}, {labels or 'the same labels'}"


def _few(sheet: Mapping[str, Any]) -> list[str]:
    """Whether an accuracy rests on so few images that chance alone moves it by many points (two standard errors)."""
    def known(count: int) -> str:
        return f"known only to about ±{100 / math.sqrt(count):.0f} points"

    if sheet["images"] < FEW:
        return [f"measured on {counted(sheet['images'], 'image')}: {known(sheet['images'])}"]
    there = [count for count in sheet.get("counts", ()) if count]
    if imbalance(sheet)[1] and there and (least := min(there)) < FEW_OF_CLASS:
        return [f"the accuracy on a class of {counted(least, 'image')}, on which balanced accuracy rests, is {known(least)}"]
    return []
