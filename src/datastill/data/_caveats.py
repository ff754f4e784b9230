"""What is said about the images of a dataset before any work, in warnings of the logger ``datastill``."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from datastill.data.images import Images, Lazy
from datastill.progress import of_data


def say_classes(name: str, train: Images, test: Images) -> None:
    """Classes without test images, and names that are easily taken for one another, or that are none."""
    if lacking := [one for one, rows in zip(test.classes, test.of_class, strict=True) if not len(rows)]:
        of_data.warning("%s: no test images of class %s; scores say nothing about it", name, ", ".join(lacking[:5]) + (
            f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""))
    for one in sorted({"nan", "<NA>"} & {*train.classes}):
        of_data.warning("%s: a class is called %r, which is how a missing label is written; leave it out with data.classes "
                        "if it is one", name, one)
    times = Counter(map(_plain, train.classes))
    if alike := [one for one in train.classes if times[_plain(one)] > 1]:
        of_data.warning("%s: the names of these classes hardly differ: %s; merge them if they are the same", name,
                    ", ".join(map(repr, alike[:6])))


def _plain(name: str) -> str:
    same = re.sub(r"[\s_-]", "", unicodedata.normalize("NFKC", name).casefold())
    return re.sub(r"(?<!\d)0+(?=\d)", "", same)  # "01" is "1" written by another program


def say_repeated(name: str, train: Images, others: Mapping[str, Images], names: Sequence[Sequence[str]]) -> None:
    """Training images whose pixels are in several classes, or in one of the other splits. ``names``: of the images of each
    split, in this order, if they have some. Images that are read on access are not compared."""
    if any(isinstance(images.pixels, Lazy) for images in (train, *others.values())):
        return
    first: dict[bytes, int] = {}
    label = train.targets.tolist()
    found = {"training images that are in another class too":
             [row for row, key in enumerate(train.hashes) if label[first.setdefault(key, row)] != label[row]]}
    for split, images in others.items():
        found[f"{split} images that are training images too, so that scores are too high"] = [
            row for row, key in enumerate(images.hashes) if key in first]
    for number, (text, rows) in enumerate(found.items()):
        if rows:
            shown = [names[number][row] if names else f"number {row}" for row in rows[:3]]
            of_data.warning("%s: %s: %d (%s); remove them from one of the two", name, text, len(rows),
                            ", ".join(shown).encode(errors="backslashreplace").decode())
