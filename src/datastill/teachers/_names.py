"""Which output of a network is which class of a run, when the names are written differently."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from importlib import resources

from datastill.errors import InputError
from datastill.tables import counted, near

WNID = re.compile(r"n\d{8}")  # the number of a WordNet noun, which names the classes of ImageNet


def unnamed(count: int) -> tuple[str, ...]:
    """Names of outputs of which nobody knows what they are; not those of digits, which are classes too."""
    return tuple(f"output {number}" for number in range(count))


def outputs_for(known: tuple[str, ...], wanted: tuple[str, ...]) -> list[int]:
    """The output of each ``wanted`` class in a network that knows the classes ``known``.

    Names match whatever their case, accents, spaces, hyphens and underscores; the first of several words is enough, and
    ImageNet's WordNet numbers match its words. Outputs that are only numbered (``unnamed``) match nothing: that output 3 is
    the run's fourth class has to be said (``classes=run``). Raises InputError naming a class that has no output, or several.
    """
    if known == wanted:
        return list(range(len(known)))
    if known == unnamed(len(known)):
        raise InputError(f"which class each of its {len(known)} numbered outputs is, is not known")
    outputs: dict[str, set[int]] = defaultdict(set)
    for number, name in enumerate(known):
        for key in _keys(name, _wnid(known, number)):
            outputs[key].add(number)
    found = [_output(name, outputs, known) for name in wanted]
    times = Counter(found)
    if twice := [name for name, output in zip(wanted, found, strict=True) if times[output] > 1]:
        same = known[found[wanted.index(twice[0])]]
        raise InputError(f"classes {twice[0]!r} and {twice[1]!r} are the same output, {same!r}")
    return found


def _output(name: str, outputs: dict[str, set[int]], known: Sequence[str]) -> int:
    for key in _keys(name):
        if len(there := outputs.get(key, ())) == 1:
            return next(iter(there))
        if there:
            raise InputError(f"class {name!r} may be several outputs: {', '.join(known[one] for one in sorted(there))}")
    raise InputError(f"class {name!r} is not among the {counted(len(known), 'class')} it knows{near(name, known)}")


def _keys(name: str, wnid: str = "") -> list[str]:
    """What a name may be recognized by, the surest first."""
    numbers = [wnid] if wnid else WNID.findall(name)
    return [*numbers, _plain(name), *([_plain(first)] if (first := name.partition(",")[0]) != name else [])]


def _plain(name: str) -> str:
    """A name without accents, case and the marks that stand for a space."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return " ".join(re.split(r"[\s_\-]+", bare.casefold().strip()))


def _wnid(known: tuple[str, ...], number: int) -> str:
    """The WordNet number of an output of torchvision's ImageNet networks."""
    return _wnids()[number] if known == _imagenet() else ""


@cache
def _imagenet() -> tuple[str, ...]:
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


@cache
def _wnids() -> tuple[str, ...]:
    """The 1,000 of ILSVRC 2012 in order."""
    return tuple(resources.files(__package__).joinpath("imagenet_wnids.txt").read_text().split())
