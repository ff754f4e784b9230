"""Find how to train a kind of student on few images: on random real images, measured on validation images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from datastill.core import Protocol
from datastill.data import Splits
from datastill.description import load
from datastill.digest import digest, dump, spec
from datastill.errors import InputError, RunError
from datastill.nets import Architecture
from datastill.progress import Progress
from datastill.scoring import Evaluation, check_student
from datastill.statistics import average
from datastill.tables import override
from datastill.task import check_ipc
from datastill.trials import random_real


class Tried(NamedTuple):
    """One protocol and how students did under it: accuracies as fractions, or why they have none."""

    protocol: Protocol
    accuracies: tuple[float, ...]
    failed: str = ""

    @property
    def mean(self) -> float:
        """Mean accuracy; below every other if the students diverged."""
        return average(self.accuracies) if self.accuracies else -1.0


def grid(protocol: Protocol, settings: Sequence[str]) -> list[Protocol]:
    """Every different combination of ``key=value,value,...``, laid over a protocol; a key may appear twice.

    Raises InputError for a wrong key or value.
    """
    table = dump(protocol)
    choices: dict[str, list[str]] = {}
    for setting in settings:
        key, equals, values = setting.partition("=")
        if not equals or not key.strip() or not all(value.strip() for value in values.split(",")):
            raise InputError(f"expected key=value,value,..., got {setting!r}")
        choices.setdefault(key.strip(), []).extend(f"{key.strip()}={value.strip()}" for value in values.split(","))
    combinations = [override(table, chosen) for chosen in product(*choices.values())]
    return list({digest(one): one for one in (load(Protocol, table) for table in combinations)}.values())  # type: ignore[type-abstract]


def check_tuning(network: Architecture, splits: Splits, ipc: int) -> None:
    """Check that students of this kind can be tuned on these images. Raises InputError, before anything is trained."""
    if splits.validation is None:
        raise InputError("no validation images; hold some out, for example with data.validation=0.1")
    check_ipc(splits.train, ipc)
    check_student(network, splits.validation)


def tune(protocols: Sequence[Protocol], network: Architecture, splits: Splits, ipc: int, *, baselines: Path,
         trials: int = 3, seed: int = 0, progress: Progress = Progress()) -> list[Tried]:
    """Train ``trials`` students under each protocol on ``ipc`` random real images per class; the best comes first.

    Measured on the validation images, never on the test images. Every score is stored in ``baselines``, so that a second
    call runs what is missing. Raises InputError if there are no validation images.
    """
    check_tuning(network, splits, ipc)
    assert splits.validation is not None
    tried = []
    for number, protocol in enumerate(protocols):
        part = progress.part(number, len(protocols), spec(protocol))
        evaluation = Evaluation(protocol, network, splits.train, splits.validation, "validation", seed,
                                root=baselines.parent)
        try:
            scores = random_real(evaluation, ipc, baselines=baselines, trials=trials, progress=part)
            tried.append(Tried(protocol.for_network(network), tuple(score.accuracy for score in scores)))
        except RunError as error:
            tried.append(Tried(protocol.for_network(network), (), str(error).partition(";")[0]))
    return sorted(tried, key=lambda one: -one.mean)
