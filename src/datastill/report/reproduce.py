"""How to reproduce a run: command lines that give exactly this run and these scores; Python that loads the set."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datastill.core import Protocol
from datastill.description import Family
from datastill.digest import dump, spec
from datastill.errors import InputError
from datastill.recipes import read_recipe, recipe_names
from datastill.registry import kind
from datastill.report.settings import hidden, leaves, read, short
from datastill.run import Run
from datastill.sheets import CONTROLS
from datastill.tables import parse_value

if TYPE_CHECKING:
    from datastill.distilled import Distilled


def commands(name: str, card: Mapping[str, Any], run: Run | None, sheets: Sequence[Mapping[str, Any]]) -> list[str]:
    """Command lines: distill (the recipe with its changes, or run.toml) or merge, then evaluate for each sheet."""
    source = [f"{name}/run.toml"]
    if run is not None and "started_from" not in card and card.get("recipe") in recipe_names():
        changed = changes(card["recipe"], run)
        source = source if changed is None else [card["recipe"], *changed]
    lines = [["datastill", "distill", *source, "--out", name]] if "merged" not in card else \
        [["datastill", "merge", *card["merged"], name]]  # the folders of the runs with these digests
    lines += [["datastill", "evaluate", name, *options] for options in map(_options, sheets)]
    if not sheets:
        lines.append(["datastill", "evaluate", name])
    return [shlex.join(line) for line in lines]


def changes(recipe: str, run: Run) -> list[str] | None:
    """The fewest ``key=value`` that turn the recipe into exactly this run; None if none do, or if one has a local path."""
    def leads(assignments: Sequence[str]) -> bool:
        try:
            return read_recipe(recipe, assignments).run == run
        except InputError:
            return False

    different = _differences(read_recipe(recipe).run, run)
    if any(isinstance(value, str) and hidden(value) != value for value in different.values()):
        return None
    found = [f"{key}={_typed(value)}" for key, value in different.items()]
    if not leads(found):
        return None
    for one in list(found):
        if leads(fewer := [other for other in found if other != one]):
            found = fewer
    return found


def _differences(old: Run, new: Run) -> dict[str, Any]:
    """What differs in ``new``, by dotted key; a member of another kind as a whole, in its short form."""
    before, after = leaves(dump(old)), leaves(dump(new))
    other = {key: short(value) for key in type(new).model_fields
             if isinstance(value := getattr(new, key), Family) and kind(value) != kind(getattr(old, key))}
    return other | {key: value for key, value in after.items()
                    if before.get(key) != value and key.partition(".")[0] not in other}


def python(name: str, distilled: Distilled) -> str:
    """Lines of Python that load the set and iterate over it."""
    shape = ", ".join(map(str, distilled.x.shape[1:]))
    soft = f"(B, {len(distilled.classes)}) probabilities"
    label = "(B,) class numbers" if distilled.card["labels"] == "hard" else soft
    return f"""\
import datastill
from torch.utils.data import DataLoader

data = datastill.load({name!r})
for x, y in DataLoader(data, batch_size=64, shuffle=True):
    ...  # x (B, {shape}) normalized, y {label}
"""


def _options(sheet: Mapping[str, Any]) -> list[str]:
    """The options of ``datastill evaluate`` that give this sheet."""
    options = ["--network", sheet["network"]]
    protocol = read(Protocol, sheet["protocol"])
    if protocol is not None and (exact := [text for text in (short(protocol), spec(protocol))
                                           if read(Protocol, text) == protocol]):
        options += ["--protocol", exact[0]]
    options += ["--trials", str(sheet["summary"]["synthetic"]["n"])]
    options += ["--split", sheet["split"]] if sheet["split"] != "test" else []
    options += ["--seed", str(sheet["seed"])] if sheet["seed"] else []
    options += ["--full"] if "full" in sheet["summary"] else []
    options += ["--no-controls"] if protocol is not None and protocol.controls() and CONTROLS not in sheet else []
    return [*options, "--snapshots"] if "selected" in sheet else options


def _typed(value: Any) -> str:
    """A value as typed on the command line: bare text if it is read back as the same text."""
    return value if isinstance(value, str) and parse_value(value) == value else json.dumps(value)
