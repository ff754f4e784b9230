"""The images of a set by class, before and after, as PNG in data URIs."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from datastill.artifact import png, read_snapshot, shown
from datastill.late import torch
from datastill.report.words import images, percent

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.distilled import Distilled

IMAGES, CLASSES = 10, 20  # shown at most: images of a class, classes
SIDE = 64  # pixels on the page, about, of a small image
START = Path("snapshots") / "000000.safetensors"
Shares = Sequence[float | None]  # accuracy of each class, a fraction


class ClassRow(NamedTuple):
    """One class: its name, accuracies as text and the images they were measured on, images before and after as data URIs."""

    name: str
    accuracy: str
    random: str
    scored: str
    before: list[str]
    after: list[str]


class Pictures(NamedTuple):
    """The images of a run: ``kind`` "both", "unchanged" or "after" (no snapshot of the start); a note on what is left out;
    size on the page in CSS pixels."""

    kind: str
    rows: list[ClassRow]
    note: str
    width: int
    height: int


def read_start(folder: Path, card: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The tensors a run started with, if its folder has them. Raises InputError for a damaged file."""
    path = folder / START
    return read_snapshot(path, card) if path.exists() else None


def pictures(distilled: Distilled, start: dict[str, Tensor] | None,
             right: Shares = (), random: Shares = (), counts: Sequence[int] = ()) -> Pictures:
    """Images by class next to those of the start, with the accuracy of each class if it was measured, on ``counts``."""
    after, target = distilled.view, distilled.y.argmax(1)
    before, first = (None, target) if start is None else (start["view"], start["labels"].argmax(1))
    unchanged = before is not None and before.shape == after.shape and torch.equal(before, after)
    rows = [ClassRow(name, _share(right, c), _share(random, c), images(counts[c]) if c < len(counts) else "",
                     [] if before is None or unchanged else _of_class(before, first, c), _of_class(after, target, c))
            for c, name in enumerate(distilled.classes[:CLASSES])]
    height, width = after.shape[1:3]
    zoom = SIDE // max(height, width) or min(1.0, 2 * SIDE / max(height, width))
    most = int(torch.bincount(target, minlength=1).max())
    return Pictures("after" if before is None else "unchanged" if unchanged else "both", rows,
                    _note(distilled, most), round(width * zoom), round(height * zoom))


def _of_class(view: Tensor, target: Tensor, c: int) -> list[str]:
    return [thumbnail(image) for image in view[target == c][:IMAGES]]


def _share(shares: Shares, c: int) -> str:
    value = shares[c] if c < len(shares) else None
    return "" if value is None else percent(value)


def _note(distilled: Distilled, most: int) -> str:
    classes = len(distilled.classes)
    parts = [f"the first {IMAGES} of {most} images per class"] if most > IMAGES else []
    parts += [f"the first {CLASSES} of {classes} classes"] if classes > CLASSES else []
    left_out = f"Shown: {' and '.join(parts)}; the set itself contains all of them." if parts else ""
    soft = "Labels are soft: each image is shown under the class of its largest label."
    channels = distilled.view.shape[3]
    odd = "" if channels in (1, 3) else f"Images have {channels} channels: " + (
        "the first three are shown as color." if channels > 3 else "the first is shown as gray.")
    return " ".join(filter(None, (left_out, odd, soft if distilled.card["labels"] == "soft" else "")))


def thumbnail(view: Tensor) -> str:
    """One image (H, W, C) uint8 as a data URI."""
    pixels = shown(view)
    pixels = pixels.squeeze(2) if pixels.shape[2] == 1 else pixels
    return "data:image/png;base64," + base64.b64encode(png(Image.fromarray(pixels.numpy()))).decode()
