"""The parts of a set that was distilled in shards, merged into one artifact."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datastill import artifact
from datastill.arguments import checked
from datastill.description import Description, load
from datastill.digest import digest, to_sealed_toml
from datastill.errors import InputError
from datastill.files import write_atomically
from datastill.outputs import check_new_folder
from datastill.run import Run
from datastill.store import Entry
from datastill.tables import read_toml

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.artifact import Pieces
    from datastill.distilled import Distilled

ABOUT = ("recipe", "protocol", "started_from", "data", "prepared")  # what the merged card takes from those of the parts
EXPECTED = "expected parts distilled with shard=[0,n], [1,n], ... and the same n above 1 (or class_shard)"


@checked
def merge(folders: Sequence[Path | str], out: Path | str) -> Distilled:
    """Merge the finished shards of one run: every class with the images of shard 0, then 1, ... Returns the set.

    Large parts are never in memory: they are read and written piece by piece. ``out`` becomes an artifact of the run without
        its shard; its card names the digests it was merged from.

    Raises InputError: parts of different runs or data, one that is missing, unfinished, damaged or given twice, two kinds
    of labels, different learned learning rates, or ``out`` not empty.
    """
    out = Path(out)
    parts = _in_order([(Path(folder), artifact.load(folder)) for folder in folders])
    run = load(Run, parts[0].card["run"]).model_copy(update={"shard": (0, 1), "class_shard": (0, 1)})
    tensors = _together(parts)
    names = [part.card["digest"] for part in parts]
    about = {key: parts[0].card[key] for key in ABOUT if key in parts[0].card}
    name = digest(run, about["data"]["fingerprint"], "merged", *names)
    if not _is_half_merged(out, name):
        check_new_folder(out)
    with Entry(out, "merge again").held():
        beside = {key: about[key] for key in ("protocol", "started_from") if key in about}
        write_atomically(out / "run.toml", to_sealed_toml(run, digest=name, **beside).encode())
        artifact.write_joined(out / artifact.TENSORS, tensors, run=name)
        stored = sum(part.card.get("stored", part.card["count"]) for part in parts)
        artifact.complete(out, parts[0].domain, {
            **about, "run": {**parts[0].card["run"], "shard": [0, 1], "class_shard": [0, 1]}, "digest": name, "ipc": run.ipc,
            "merged": names}, stored)
    return artifact.load(out)


def _is_half_merged(out: Path, name: str) -> bool:
    """Whether a folder is what a killed process left of this very merge."""
    if not (out / "run.toml").is_file() or (out / artifact.CARD).exists():
        return False
    with suppress(InputError):
        return read_toml(out / "run.toml").get("digest") == name
    return False


def _in_order(found: Sequence[tuple[Path, Distilled]]) -> list[Distilled]:
    """The parts of one set, in order. Raises InputError if they are not that."""
    if not found:
        raise InputError("no folders of shards given, expected all parts of one run")
    first, (of, across) = found[0][0], _grid(found[0][1])
    whole = _whole(found[0][1])
    places: dict[tuple[int, int], Path] = {}
    for folder, part in found:
        (number, parts), (place, wide) = _shard(part), _shard(part, "class_shard")
        for what, theirs in _whole(part).items():
            if theirs != whole[what]:
                raise InputError(f"{folder} and {first} are not parts of one set: they differ in {what}")
        if parts == wide == 1:
            raise InputError(f"{folder} is a whole set, not a part of one; {EXPECTED}")
        if (parts, wide) != (of, across):
            raise InputError(f"{folder} is part {_named((number, place), (parts, wide))}, {first} is one of "
                             f"{_sizes((of, across))}; {EXPECTED}")
        if (number, place) in places:
            raise InputError(f"{folder} and {places[number, place]} are both part {_named((number, place), (of, across))}; "
                             "give each part once")
        places[number, place] = folder
    if lacking := [one for one in product(range(of), range(across)) if one not in places]:
        settings = [f"shard=[{lacking[0][0]},{of}]"] * (of > 1) + [f"class_shard=[{lacking[0][1]},{across}]"] * (across > 1)
        raise InputError(f"part {_named(lacking[0], (of, across))} is missing; distill it with {' '.join(settings)} and "
                         "give all parts")
    return [part for _, part in sorted(found, key=lambda one: (_shard(one[1])[0], _shard(one[1], "class_shard")[0]))]


def _shard(part: Distilled, key: str = "shard") -> tuple[int, int]:
    number, of = part.card["run"].get(key, (0, 1))
    return number, of


def _grid(part: Distilled) -> tuple[int, int]:
    return _shard(part)[1], _shard(part, "class_shard")[1]


def _named(place: tuple[int, int], of: tuple[int, int]) -> str:
    """``0 of 2``; ``1 of 3 of the classes``; ``0 of 2, 1 of 3 of the classes``."""
    words = [f"{place[0]} of {of[0]}"] * (of[0] > 1) + [f"{place[1]} of {of[1]} of the classes"] * (of[1] > 1)
    return ", ".join(words or [f"{place[0]} of {of[0]}"])


def _sizes(of: tuple[int, int]) -> str:
    return ", ".join([str(of[0])] * (of[0] > 1 or of[1] == 1) + [f"{of[1]} of the classes"] * (of[1] > 1))


def _of(part: Distilled) -> range | None:
    """The classes a part has images of, if not all."""
    return range(*part.card["images_of"]) if "images_of" in part.card else None


def _whole(part: Distilled) -> dict[str, Any]:
    """What all parts of one set have in common, in words."""
    run = {f"the run's {key}": _essence(value) for key, value in load(Run, part.card["run"])
           if key not in ("shard", "class_shard")}
    return {**run, "what they were prepared with (teachers, generators)": part.card.get("prepared"),
            "the data's fingerprint": part.card["data"]["fingerprint"],
            "the set they start from": part.card.get("started_from"), "the kind of labels": part.card["labels"]}


def _essence(value: Any) -> Any:
    """What determines a result; paths do not."""
    if isinstance(value, tuple):
        return tuple(map(_essence, value))
    return digest(value) if isinstance(value, Description) else value


def _together(parts: Sequence[Distilled]) -> dict[str, Pieces]:
    """The tensors of the whole set by name, in class order, as pieces of those of the parts. Raises InputError."""
    rates = sorted({part.lr for part in parts if part.lr is not None})
    if len(rates) > 1:
        raise InputError(f"the parts learned different learning rates ({', '.join(f'{rate:g}' for rate in rates)}), but a "
                         "set has only one; distill them with method.optim.inner_lr.lr=0, which keeps method.lr_net")
    first = parts[0]
    stored = first.card.get("stored", first.card["count"])
    for name, value in first.tensors.items():
        if name.startswith(artifact.PARAMETER) and len(value) != stored:
            short = name.removeprefix(artifact.PARAMETER)
            raise InputError(f"the parts cannot be merged: their parameter {short} is shared by the images of a part "
                             f"({len(value)} rows for {stored} images)")
    found = {name: artifact.joined(_by_class([part.tensors[name] for part in parts], parts))
             for name in first.tensors if name != "lr"}
    if rates:
        found["lr"] = artifact.Pieces([first.tensors["lr"]], tuple(first.tensors["lr"].shape))
    return found


def _by_class(values: Sequence[Tensor], parts: Sequence[Distilled]) -> list[Tensor]:
    """Rows of the parts in class order."""
    held = [_of(part) or range(len(part.classes)) for part in parts]
    split = [dict(zip(of, value.split(len(value) // len(of)), strict=True)) for of, value in zip(held, values, strict=True)]
    return [rows[c] for c in range(len(parts[0].classes)) for rows in split if c in rows]
