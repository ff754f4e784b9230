"""Scores in words: numbers with one decimal, what a sheet shows, and the headline."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from datastill.core import Protocol
from datastill.errors import InputError
from datastill.nets import Architecture
from datastill.report.settings import read, short, short_table
from datastill.sheets import CONTROLS, RULES, control, flags, imbalance
from datastill.statistics import statistics

NBSP = "\u00a0"
Sheet = Mapping[str, Any]


class Row(NamedTuple):
    """A score sheet as cells of the table; accuracies in percent, gain in points, "" for what was not measured."""

    network: str
    protocol: str
    split: str
    seed: int
    images: int
    synthetic: str
    random: str
    full: str
    gain: str
    interval: str
    trials: int
    chance: str
    verdict: str
    warn: bool
    balanced: str
    random_balanced: str
    gain_balanced: str
    auroc: str
    largest: str


class Bar(NamedTuple):
    """One bar under the headline: accuracy as a fraction, and as text."""

    name: str
    value: float
    text: str


def number(value: float, sign: bool = False) -> str:
    """One decimal, a true minus sign, no negative zero."""
    text = f"{value:+.1f}" if sign else f"{value:.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def percent(share: float) -> str:
    """A fraction in percent."""
    return f"{number(100 * share)}{NBSP}%"


def breakable(text: str) -> Markup:
    """A name or value, escaped, with line breaks allowed only after dots, commas and the like."""
    return Markup(re.sub(r"([._,:/])", r"\1<wbr>", str(escape(text))))


def points(share: float) -> str:
    """A difference of fractions in points, with sign."""
    return number(100 * share, sign=True)


def trials(count: int) -> str:
    """``1 trial``, ``3 trials``."""
    return f"{count} {'trial' if count == 1 else 'trials'}"


def images(count: int) -> str:
    """``1 image``, ``10 images``."""
    return f"{count:,}".replace(",", "\u202f") + (" image" if count == 1 else " images")


def duration(seconds: float) -> str:
    """``42 seconds``, ``12 minutes``, ``3.5 hours``."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def spread(found: Mapping[str, Any] | None, usual: int) -> str:
    """``84.1 ± 2.7``, mean and standard deviation in percent; the number of trials is added if it is not ``usual``."""
    if found is None:
        return ""
    std = f" ± {number(100 * found['std'])}" if found["n"] > 1 else ""
    return number(100 * found["mean"]) + std + (f" ({trials(found['n'])})" if found["n"] != usual else "")


def interval(found: Mapping[str, float]) -> str:
    """``6.0 to 33.9``: the 95 % interval in points; "" for a single trial."""
    return f"{number(100 * found['low'])} to {number(100 * found['high'])}" if found["n"] > 1 else ""


def row(sheet: Sheet) -> Row:
    """A sheet as cells."""
    found = sheet["summary"]
    gain, count = found.get("gain"), found["synthetic"]["n"]
    largest, balanced = imbalance(sheet)[1], (gain or {}).get("balanced")
    verdict_, warn = verdict(sheet)
    return Row(
        network=sheet["network"], protocol=short_table(Protocol, sheet["protocol"]), split=sheet["split"],
        seed=sheet["seed"], images=sheet["images"], synthetic=spread(found["synthetic"], count),
        random=spread(found.get("random"), count), full=spread(found.get("full"), count),
        gain=points(gain["mean"]) if gain else "", interval=interval(gain) if gain else "", trials=count,
        chance=number(100 * sheet["chance"]), verdict=verdict_, warn=warn,
        balanced=_share(found["synthetic"].get("balanced")), auroc=_share(found["synthetic"].get("auroc")),
        random_balanced=_share(found.get("random", {}).get("balanced")), largest=_share(largest or None),
        gain_balanced=_gain(balanced) if largest and balanced else "")


def _gain(found: Mapping[str, float]) -> str:
    return points(found["mean"]) + (f" ({interval(found)})" if found["n"] > 1 else "")


def asked(sheet: Sheet, lr: float | None = None) -> str:
    """The protocol of a sheet as it was asked for: without what it filled in for the network, or for the set, whose learned
    learning rate is ``lr``."""
    protocol, network = read(Protocol, sheet["protocol"]), read(Architecture, sheet["network"])
    if protocol is None or network is None:
        return short_table(Protocol, sheet["protocol"])
    try:
        usual = type(protocol)().for_network(network)
        return short(protocol, usual if lr is None else usual.for_set(lr))
    except InputError:  # one of your own, that cannot be without settings
        return short(protocol)


def _share(value: float | None) -> str:
    return "" if value is None else number(100 * value)


def verdict(sheet: Sheet) -> tuple[str, bool]:
    """What a sheet shows, in words, and whether it is a warning (sheets.flags)."""
    flagged, gain = flags(sheet), sheet["summary"].get("gain")
    below = any(flag.startswith("below") for flag in flagged)
    against = [_against_random(gain)] if gain and not below else []
    return "; ".join([*flagged, *against, *_selected(sheet)]), bool(flagged)


def _selected(sheet: Sheet) -> list[str]:
    """The published selection rule in words, if it was applied."""
    if not (found := sheet.get("selected")):
        return []
    return [f"best of {found['of']} snapshots, selected on these same images: {_with_std(statistics(found['accuracy']))}"]


def _against_random(gain: Mapping[str, float]) -> str:
    if gain["n"] == 1:
        side = "equal to" if gain["mean"] == 0 else "above"
        return f"{side} random real images in a single trial"
    if gain["std"] == 0:
        return f"not decided: the same difference in all {gain['n']:.0f} trials, so that its spread is unknown"
    if gain["low"] > 0:
        return "better than random real images"
    return "not shown to beat random real images: the interval includes 0"


class Matrix(NamedTuple):
    """Student by network distilled with: rows of (run, network it was distilled with, a Row for each student or None)."""

    protocol: str
    split: str
    data: str
    chance: str
    networks: list[str]
    rows: list[tuple[str, str, list[Row | None]]]


class Scored(NamedTuple):
    """A run in the tables of several: its name, the network and the data it was distilled with, the learning rate it
    learned, its sheets."""

    name: str
    made_with: str
    data: str
    lr: float | None
    sheets: Sequence[Sheet]


def matrices(runs: Sequence[Scored]) -> list[Matrix]:
    """Tables of several runs by kinds of students, if there are at least two: one for each protocol with its settings, split
    and data. What a protocol fills in for a network or a set may differ in a table."""
    by_how: dict[tuple[str, str, str, str], dict[int, dict[str, Row]]] = {}
    for number, run in enumerate(runs):
        for sheet in reversed(run.sheets):
            how = (asked(sheet, run.lr), sheet["split"], run.data, sheet.get("data", {}).get("fingerprint", ""))
            by_how.setdefault(how, {}).setdefault(number, {})[sheet["network"]] = row(sheet)
    found = []
    for (protocol, split, data, _), rows in by_how.items():
        there = {network: one for of in rows.values() for network, one in of.items()}
        networks = [one for one in dict.fromkeys(s["network"] for run in runs for s in run.sheets) if one in there]
        if len(networks) > 1:
            found.append(Matrix(protocol, split, data, there[networks[0]].chance, networks, [
                (runs[number].name, runs[number].made_with, [of.get(n) for n in networks]) for number, of in rows.items()]))
    return found


def choose(sheets: Sequence[Sheet], network: str, protocol: Mapping[str, Any] | None) -> Sheet | None:
    """The sheet for the headline: test images, the network used for distillation, the set's intended protocol, if any."""
    return min(sheets, default=None, key=lambda s: (
        s["split"] != "test", s["network"] != network, protocol is not None and s["protocol"] != protocol))


def headline(sheet: Sheet, count: int) -> str:
    """The result in one sentence; ``count`` is the number of images in the set."""
    found = sheet["summary"]
    these = "this 1 image" if count == 1 else f"these {images(count)}"
    text = f"Students trained on {these} reach {_with_std(found['synthetic'])}"
    if "random" in found:
        text += f", those trained on as many random real images {_with_std(found['random'])}"
    name, share = imbalance(sheet)
    always = f", always answering the largest class ({name}) gives {percent(share)}" if share else ""
    text += f"; chance is {percent(sheet['chance'])}{always}."
    if share:
        random = found.get("random", {}).get("balanced")
        text += f" Balanced accuracy, the mean over classes, is {percent(found['synthetic']['balanced'])}"
        text += "." if random is None else f", with random real images {percent(random)}."
    if (gain := found.get("gain")) is not None:
        text += f" Paired gain {_with_interval(gain)}, {trials(gain['n'])}"
        text += f"; in balanced accuracy {_with_interval(gain['balanced'])}." if share and "balanced" in gain else "."
    return text


def _with_interval(gain: Mapping[str, float]) -> str:
    middle = f", 95{NBSP}% interval {interval(gain)}" if gain["n"] > 1 else ""
    return f"{points(gain['mean'])} points{middle}"


def _with_std(found: Mapping[str, float]) -> str:
    return percent(found["mean"]) + (f" (±{number(100 * found['std'])})" if found["n"] > 1 else "")


def bars(sheet: Sheet) -> list[Bar]:
    """The means of a sheet and chance, for the bars."""
    names = {"synthetic": "these images", "random": "random real images", "full": "all training images"}
    found = [Bar(name, sheet["summary"][key]["mean"], percent(sheet["summary"][key]["mean"]))
             for key, name in names.items() if key in sheet["summary"]]
    if (share := imbalance(sheet)[1]):
        found.append(Bar("always the largest class", share, percent(share)))
    return [*found, Bar("chance", sheet["chance"], percent(sheet["chance"]))]


class Control(NamedTuple):
    """One thing that a set is compared with under a protocol with teachers, as cells."""

    name: str
    accuracy: str
    gain: str
    warn: bool


def controls(sheet: Sheet) -> list[Control]:
    """What tells labels and images apart, with what the set has more, in points."""
    found = [Control("these images", spread(sheet["summary"]["synthetic"], sheet["summary"]["synthetic"]["n"]), "", False)]
    summary = sheet["summary"]
    others = {"random": {**summary["random"], "gain": summary["gain"]}, **summary.get(CONTROLS, {})}
    for name, one in others.items():
        gain, same = one["gain"], "," not in name
        found.append(Control(control(name), spread(one, one["n"]), _gain(gain), same and gain.get("low", gain["mean"]) <= 0))
    return found


def rule(sheet: Sheet) -> str:
    """The authors' rule of choosing and what it gives, in words; "" if there is none."""
    if "best" not in sheet["summary"]:
        return ""
    name = RULES.get(sheet["protocol"].get("best", ""), "best by a rule of its own")
    return f"{name}: {_with_std(sheet['summary']['best'])}"


def mean_per_class(sheet: Sheet, subject: str) -> list[float | None]:
    """Accuracy of each class as a fraction, mean over trials; None if the split has no image of the class."""
    columns = zip(*(one["per_class"] for one in sheet.get(subject, [])), strict=True)
    return [math.fsum(known) / len(known) if (known := [v for v in column if v is not None]) else None
            for column in columns]
