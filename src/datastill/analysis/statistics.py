"""What a network's batch normalization remembers of real images, how informative it is, and what it gives to a recovery."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datastill.checkpoint import read_log
from datastill.errors import InputError
from datastill.functional.batchnorm import layer_distances, normalizations, statistics
from datastill.late import nn, no_grad, torch
from datastill.registry import kind
from datastill.rng import RNG
from datastill.run import Run, read_run
from datastill.task import Task
from datastill.teachers import Pool, Teacher

FACTOR = 2.0  # of the rescaling that leaves the function of a network as it is
IMAGES = 100  # of noise, on which distances are measured


class Layer(NamedTuple):
    """Running mean and variance (C,) of the input of one batch normalization, and what it adds to variances."""

    name: str
    mean: np.ndarray
    var: np.ndarray
    eps: float


def layers(network: nn.Module) -> list[Layer]:
    """Those of a network, in its order. Raises InputError if it has none."""
    found = []
    for name, one in normalizations(network).items():
        assert isinstance(one, nn.modules.batchnorm._BatchNorm)
        assert one.running_mean is not None
        assert one.running_var is not None
        mean, var = (value.detach().double().cpu().numpy() for value in (one.running_mean, one.running_var))
        found.append(Layer(name, mean, var, one.eps))
    if not found:
        raise InputError("the network has no batch normalization with running statistics")
    return found


MEASURES = {
    "spread of means": "standard deviation of the running means over channels",
    "mean variance": "mean of the running variances over channels",
    "spread of variances": "standard deviation of the running variances over channels",
    "entropy": "0.5 sum ln(2 pi e variance) / C, of a Gaussian with these variances, in nats for each channel",
    "spread of means, scale-free": "the same of means divided by their standard deviation, sqrt(variance + eps)",
    "spread of variances, scale-free": "standard deviation of the variances divided by their mean",
    "evenness of variances": "entropy of the variances as shares of their sum, divided by ln C: 1 if they are all equal"}
SCALE_FREE = ("spread of means, scale-free", "spread of variances, scale-free", "evenness of variances")


def measures(layer: Layer) -> dict[str, float]:
    """How much a layer's statistics vary over its channels (``MEASURES``). The first four depend on the scale of the layer's
    input, which says nothing about the network's function; the others do not."""
    mean, var = layer.mean, layer.var + layer.eps
    shares = var / var.sum()
    even = float(-(shares * np.log(shares)).sum() / np.log(len(var))) if len(var) > 1 else 1.0
    values = (mean.std(), layer.var.mean(), layer.var.std(), 0.5 * np.log(2 * np.pi * np.e * var).mean(),
              (mean / np.sqrt(var)).std(), layer.var.std() / max(layer.var.mean(), 1e-300), even)
    return dict(zip(MEASURES, map(float, values), strict=True))


def of_network(network: nn.Module) -> dict[str, float]:
    """The same for a network: means over its layers."""
    each = [measures(layer) for layer in layers(network)]
    return {name: float(np.mean([one[name] for one in each])) for name in MEASURES}


def rescaled(network: nn.Module, factor: float = FACTOR) -> nn.Module:
    """A copy with the same function whose normalizations see inputs ``factor`` times as large: the convolution or linear
    layer before each is scaled, and its running mean, variance and eps with it. Layers are paired by their order, as in
    ResNets, VGGs and ConvNets; what has no such layer before it stays."""
    made = copy.deepcopy(network)
    for before, norm in pairwise(module for module in made.modules() if not list(module.children())):
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and isinstance(before, (nn.Conv2d, nn.Linear)) and \
                norm.running_mean is not None and norm.running_var is not None:
            with torch.no_grad():
                for value in (before.weight, before.bias, norm.running_mean):
                    if value is not None:
                        value.mul_(factor)
                norm.running_var.mul_(factor**2)
            norm.eps *= factor**2
    return made


class Control(NamedTuple):
    """What a rescaling that changes nothing does to what is measured: the largest change of a logit, relative to the largest
    one; by name the measures of the network after it, divided by those before; the statistics distance of noise, raw and
    scale-free, likewise."""

    logits: float
    measures: Mapping[str, float]
    raw: float
    scale_free: float


@no_grad
def control(teacher: Teacher, task: Task, factor: float = FACTOR) -> Control:
    """The control for one teacher, on normally distributed noise."""
    noise = RNG("statistics", "noise").normal(IMAGES, *task.real.shape).to(task.device)
    seen, other = teacher.see(noise), rescaled(teacher.network, factor)
    before, after = of_network(teacher.network), of_network(other)
    one, two = teacher.network(seen), other(seen)
    mine, theirs = statistics(teacher.network, seen), statistics(other, seen)
    raw, free = (float(layer_distances(theirs, flag).sum() / layer_distances(mine, flag).sum()) for flag in (False, True))
    # An entropy grows by ln(factor), whatever it was: a difference, not a ratio.
    grown = {name: after[name] - before[name] if name == "entropy" else after[name] / before[name] for name in MEASURES}
    return Control(float((one - two).abs().max() / one.abs().max()), grown, raw, free)


@dataclass(frozen=True, eq=False)
class Informative:
    """What a finished recovery had to work with.

    name: of the run. teachers: by name, their layers and measures, and the control. signals: of the run's log, by name
    ("cross_entropy", "statistics", "gradient.entropy", "gradient.statistics"), (iterations, values).
    """

    name: str
    run: Run
    teachers: Mapping[str, tuple[Sequence[Layer], Mapping[str, float]]]
    controls: Mapping[str, Control]
    signals: Mapping[str, tuple[list[int], list[float]]]


SIGNALS = ("cross_entropy", "statistics", "gradient.entropy", "gradient.statistics")


def informative(folder: Path, task: Task) -> Informative:
    """Of the finished run in a folder, whose method asks teachers with batch normalization. Raises InputError."""
    run = read_run(folder)
    pools = run.method.pools(run.network)
    if not pools:
        raise InputError(f"{folder}: method {kind(run.method)} has no teachers; expected a run of a method that recovers "
                         "images from networks, such as sre2l")
    named = {_named(pool, teacher): teacher for pool in pools for teacher in task.teachers(pool)}
    teachers = list(named.values())
    if lacking := [one.name for one in teachers if "statistics" not in one.gives]:
        raise InputError(f"{folder}: teacher {lacking[0]} has no batch normalization with running statistics")
    signals: dict[str, tuple[list[int], list[float]]] = {}
    for line in read_log(folder):
        for name in SIGNALS:
            if name in line:
                iterations, values = signals.setdefault(name, ([], []))
                iterations.append(int(line["iteration"]))
                values.append(float(line[name]))
    shown: dict[str, Any] = {name: (layers(one.network), of_network(one.network)) for name, one in named.items()}
    return Informative(folder.name, run, shown, {name: control(one, task) for name, one in named.items()}, signals)


def _named(pool: Pool, teacher: Teacher) -> str:
    """A name that tells it from others of its architecture: how it was trained, and the digest of the rest."""
    how, digest = getattr(pool, "loss", kind(pool)), str(teacher.facts.get("digest", ""))[:6]
    return f"{teacher.name}, {how}{f' ({digest})' if digest else ''}"
