"""Runs with plug-ins compared with the same runs without, paired by seed and student."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from datastill.report import settings, words
from datastill.statistics import statistics

Card = Mapping[str, Any]


class Gain(NamedTuple):
    """What plug-ins add for one kind of student, as cells."""

    base: str
    plugins: str
    student: str
    without: str
    with_: str
    gain: str
    interval: str
    pairs: str


def gains(runs: Sequence[tuple[Card, Sequence[Mapping[str, Any]]]]) -> list[Gain]:
    """Every group of runs (card, score sheets) that differ only in plug-ins from runs without any.

    With several seeds, pairs are seeds (means over students); with a single seed they are students.
    """
    plain = {(_base(card), card["run"]["seed"]): sheets for card, sheets in runs if not card["run"]["plugins"]}
    groups: dict[tuple[str, str, str, str], dict[int, tuple[list[float], list[float]]]] = {}
    names: dict[str, str] = {}
    for card, sheets in runs:
        base, seed = _base(card), card["run"]["seed"]
        if not card["run"]["plugins"] or (base, seed) not in plain:
            continue
        names[base] = f"{settings.method_name(card)}, {settings.data_name(card)}, ipc {card['ipc']}"
        for sheet in sheets:
            other = next((s for s in plain[base, seed] if _how(s) == _how(sheet)), None)
            if other is not None:
                pair = ([one["accuracy"] for one in sheet["synthetic"]], [one["accuracy"] for one in other["synthetic"]])
                key = (base, json.dumps(card["run"]["plugins"], sort_keys=True), sheet["network"], _how(sheet)[1])
                groups.setdefault(key, {})[seed] = pair
    return [_gain(names[base], json.loads(plugins), student, pairs) for (base, plugins, student, _), pairs in groups.items()]


def _gain(base: str, plugins: Mapping[str, Any], student: str, pairs: Mapping[int, tuple[list[float], list[float]]]) -> Gain:
    if len(pairs) > 1:
        with_, without = ([sum(pair[side]) / len(pair[side]) for pair in pairs.values()] for side in (0, 1))
        unit = "seeds"
    else:
        (pair,) = pairs.values()
        count = min(map(len, pair))
        with_, without, unit = pair[0][:count], pair[1][:count], "students of one seed"
    found = statistics([a - b for a, b in zip(with_, without, strict=True)])
    text = ", ".join(f"{label} ({_weight(one)})" for label, one in plugins.items())
    before, after = (words.spread(statistics(values), len(values)) for values in (without, with_))
    return Gain(base, text, student, before, after, words.points(found["mean"]), words.interval(found),
                f"{len(with_)} {unit}")


def _weight(plugin: Mapping[str, Any]) -> str:
    return f"weight {plugin['weight']:g}" + (" of the gradient" if plugin.get("balance", "fixed") != "fixed" else "")


def _base(card: Card) -> str:
    """What two runs must have in common: everything but plug-ins and seed."""
    rest = {key: value for key, value in card["run"].items() if key not in ("plugins", "seed")}
    return json.dumps([rest, card["data"]["fingerprint"]], sort_keys=True)


def _how(sheet: Mapping[str, Any]) -> tuple[str, str]:
    """How a sheet was scored."""
    return sheet["network"], json.dumps([sheet["protocol"], sheet["split"], sheet["seed"]], sort_keys=True)
