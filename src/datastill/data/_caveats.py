"""What is said about the images of a dataset before any work, in warnings of the logger ``datastill``."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from datastill.data.images import Images, Lazy
from datastill.progress import log


def say_classes(name: str, train: Images, test: Images) -> None:
    """Classes without test images, and names that are easily taken for one another."""
    if lacking := [one for one, rows in zip(test.classes, test.of_class, strict=True) if not len(rows)]:
        log.warning("%s: no test images of class %s; scores say nothing about it", name, ", ".join(lacking[:5]) + (
            f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""))
    times = Counter(map(_plain, train.classes))
    if alike := [one for one in train.classes if times[_plain(one)] > 1]:
        log.warning("%s: the names of these classes hardly differ: %s; merge them if they are the same", name,
                    ", ".join(map(repr, alike[:6])))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", unicodedata.normalize("NFKC", name).casefold())


def say_repeated(name: str, train: Images, test: Images, names: Sequence[Sequence[str]]) -> None:
    """Images whose pixels are in both splits, or in several classes of the training images. ``names``: of the images of each
    split, if they have some. Images that are read on access are not compared."""
    if isinstance(train.pixels, Lazy) or isinstance(test.pixels, Lazy):
        return
    first: dict[bytes, int] = {}
    label = train.targets.tolist()
    mixed = [row for row, key in enumerate(train.hashes()) if label[first.setdefault(key, row)] != label[row]]
    shared = [row for row, key in enumerate(test.hashes()) if key in first]
    for rows, split, text in ((shared, 1, "test images that are training images too, so that scores are too high"),
                              (mixed, 0, "training images that are in another class too")):
        if rows:
            shown = [names[split][row] if names else f"number {row}" for row in rows[:3]]
            log.warning("%s: %s: %d (%s); remove them from one of the two", name, text, len(rows),
                        ", ".join(shown).encode(errors="backslashreplace").decode())
