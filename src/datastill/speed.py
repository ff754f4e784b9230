"""Measure which forms of passes are fastest on this machine for the work of a recipe: ``datastill tune-speed``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from datastill.compute import computing
from datastill.core import Protocol
from datastill.errors import Stopped
from datastill.late import torch
from datastill.nets import Architecture, fresh
from datastill.nets.choices import Choices, using
from datastill.nets.forms import Form
from datastill.progress import Progress
from datastill.rng import RNG
from datastill.run import Run
from datastill.running import begin
from datastill.task import Task
from datastill.train import Fixed, predict


@dataclass(frozen=True)
class Timed:
    """The chosen form of a pass, the seconds of an image by form (none if the machine was too busy to tell), and whether
    later work will find it."""

    form: Form
    seconds: Mapping[str, float]
    kept: bool = False


def tune_speed(run: Run, task: Task, protocol: Protocol, network: Architecture, folder: Path,
               progress: Progress = Progress()) -> dict[str, Timed]:
    """Measure the passes of an iteration and of a student, whatever was measured before, and keep what is found in
    ``folder``. Returns it by pass; nothing else is written. Raises InputError as distill does."""
    task = replace(task, dry_run=True)  # untrained networks take the place of teachers
    choices = Choices(folder, again=True)
    with using(choices), computing(task.device, run.precision, run.deterministic):
        progress.tell(0, 2, "an iteration")
        loop = begin(run, task)
        if run.method.iterations:
            loop.advance()
        progress.tell(1, 2, "a student")
        _train(run, task, protocol, network)
        progress.tell(2, 2)
    return {key: Timed(form, choices.seconds.get(key, {}), key in choices.kept) for key, form in choices.used.items()}


class _Once(Progress):
    """Ends a training after its first epoch."""

    def tell(self, done: int, of: int, note: str = "") -> None:
        if done:
            raise Stopped


def _train(run: Run, task: Task, protocol: Protocol, network: Architecture) -> None:
    """One epoch of a student on as many images as the set will have, and as much of a test set as one pass takes."""
    rows = torch.arange(task.decoded(len(run.rows))) % len(task.real)
    net = fresh(network, task.real.shape, task.classes, RNG("speed", "network"), task.device)
    protocol = protocol.for_network(network).for_set(1.0 if run.method.has_learned_lr else None)
    with suppress(Stopped):
        protocol.train(net, Fixed(task.real.batch(rows)), RNG("speed", "train"), _Once())
    predict(net, task.real.subset(torch.arange(min(1000, len(task.real)))))
