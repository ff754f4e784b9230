"""What is said about the images of a dataset before any work: in warnings of the logger ``datastill``, and on the card."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from datastill.data.images import Images, Lazy
from datastill.progress import of_data

_said: ContextVar[list[str] | None] = ContextVar("_said", default=None)


def say(of: object, text: str) -> None:
    """Warn about a dataset; ``of``, which may be a path, is not kept by ``listening``."""
    of_data.warning("%s: %s", of, text)
    if (said := _said.get()) is not None:
        said.append(text)


@contextmanager
def listening() -> Iterator[list[str]]:
    """What is said meanwhile. Not a handler of the logger, which is silenced in processes of ``--jobs``."""
    said = list[str]()
    token = _said.set(said)
    try:
        yield said
    finally:
        _said.reset(token)


def say_classes(name: str, train: Images, test: Images) -> None:
    """Classes without test images, and names that are easily taken for one another, or that are none."""
    if lacking := [one for one, rows in zip(test.classes, test.of_class, strict=True) if not len(rows)]:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        say(name, f"no test images of class {', '.join(lacking[:5])}{more}; scores say nothing about it")
    for one in sorted({"nan", "<NA>"} & {*train.classes}):
        say(name, f"a class is called {one!r}, which is how a missing label is written; leave it out with data.classes if "
                  "it is one")
    times = Counter(map(_plain, train.classes))
    if alike := [one for one in train.classes if times[_plain(one)] > 1]:
        shown = ", ".join(map(repr, alike[:6]))
        say(name, f"the names of these classes hardly differ: {shown}; merge them if they are the same")


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
            listed = ", ".join(names[number][row] if names else f"number {row}" for row in rows[:3])
            shown = listed.encode(errors="backslashreplace").decode()
            say(name, f"{text}: {len(rows)} ({shown}); remove them from one of the two")
