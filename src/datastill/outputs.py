"""Where a page or an export may be written: never over anything else, never over a part of what was computed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from datastill.artifact import PREVIEW, TENSORS, WHITENING
from datastill.checkpoint import LOG, STATE
from datastill.errors import InputError
from datastill.files import LEFTOVER, real
from datastill.nets.choices import RECORD
from datastill.store import CARD, LOCK

MADE = b"<footer>Created by datastill "  # near the end of every page
KINDS = {".csv", ".gif", ".gz", ".h5", ".hdf5", ".htm", ".html", ".jpeg", ".jpg", ".json", ".md", ".npy", ".npz", ".parquet",
         ".pdf", ".pickle", ".pkl", ".png", ".pt", ".pth", ".safetensors", ".svg", ".tar", ".tgz", ".toml", ".txt", ".zip"}
# Of a distilled set.
OWN = {CARD, "run.toml", LOG, STATE, RECORD, TENSORS, PREVIEW, WHITENING, "snapshots", "scores", "analysis"}


def check_output(out: Path, what: str, ours: Callable[[Path], bool], force: bool = False,
                 else_: str = "choose another name, or replace it with --force") -> None:
    """Check that a file may be written at ``out``, before the work for it. ``what``: what is written, in words.

    A file that is there is replaced only if it is an earlier one of its kind (``ours``), or with ``force``; never one inside
    the folder of a distilled set, of teachers or of a run, and never what is no regular file. else_: what to do then. Raises
    InputError.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder, expected the name of a file")
    there = os.path.lexists(out)
    if there and (out.is_symlink() or not out.is_file()):
        raise InputError(f"{out} is not a regular file, so it is not replaced; choose another name")
    earlier = there and ours(out)
    home = _home(out)
    if home is not None and ((there and not earlier) or _is_own(out, home)):
        raise InputError(f"{out} belongs to the folder {home}, of which nothing is ever replaced; choose a name outside it")
    if there and not earlier and not force:
        raise InputError(f"{out} exists and is not {what}; {else_}")


def check_named(out: Path, what: str, *suffixes: str) -> None:
    """Check that what is written at ``out`` does not have the name of another kind of file. Raises InputError."""
    if out.suffix.lower() in KINDS - {*suffixes}:
        raise InputError(f"{out} is named like another kind of file than {what}; choose a name "
                         f"{'that ends in ' + ' or '.join(suffixes) if suffixes else 'without such an end'}")


def check_new_folder(out: Path) -> None:
    """Check that a folder of files may be written at ``out``. What a killed process left half
    written does not count. Raises InputError unless it is new or empty."""
    if os.path.lexists(out) and not out.is_dir():
        raise InputError(f"{out} is not a folder; choose another name")
    if out.is_dir() and any(not path.name.startswith(LEFTOVER) and path.name != LOCK for path in out.iterdir()):
        raise InputError(f"{out} is not empty; choose another folder")
    if (home := _home(out)) is not None and _is_own(out, home):
        raise InputError(f"{out} belongs to the folder {home}; choose another folder")


def check_apart(folder: Path, scored: Path | None = None) -> None:
    """Check that a folder that runs or scores are written to is not a part of another set's folder; scores of the set in
    ``scored`` may be put beside it. Raises InputError."""
    home = _home(folder)
    beside = scored is not None and _place(folder) == real(scored) / "scores"
    if home is not None and _is_own(folder, home) and not beside:
        raise InputError(f"{folder} is inside {home}, which belongs to another set; choose another --out")


def is_page(path: Path) -> bool:
    """Whether a file is a page that was written earlier."""
    return MADE in path.read_bytes()[-1000:]


def _home(out: Path) -> Path | None:
    """The nearest folder above that belongs to a distilled set, a run or a teacher."""
    above = _place(out).parents
    return next((place for place in above if (place / CARD).exists() or (place / "run.toml").exists()), None)


def _is_own(out: Path, home: Path) -> bool:
    return _place(out).relative_to(home).parts[0] in OWN


def _place(out: Path) -> Path:
    """Where it is on the disk; the last part may be a link."""
    return real(out.parent) / out.name
