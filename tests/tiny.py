"""The smallest things that are real: digits, a narrow network, two or three iterations."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import datastill as ds
from datastill.core import Method, Plugin
from datastill.description import load
from datastill.errors import InputError
from datastill.parametrization import Parametrization
from datastill.registry import find, members

NETWORK = "convnet:width=4,depth=2"
CHEAP = {"iterations": 3, "batch_real": 8, "outer": 2, "inner": 1, "epochs": 1, "steps": 3, "max_start": 2, "expert_epochs": 1,
         "pool": {"kind": "experts", "count": 2, "snapshots": [], "batch_size": 512}}  # taken by methods that have such a field

OWN = {"recover": {"pool": {"kind": "classifier", "networks": ["convnet:width=4,depth=2,norm=batch"], "epochs": 1, "batch_size": 512},
                   "batch_size": 4, "roll": 1},
       "rded": {"patches": {"images": 40, "crops": 2}}}  # taken by these methods
POOLING = {**OWN["recover"]["pool"], "networks": ["resnet20:width=4"]}  # type: ignore[dict-item]  # takes images of any size
POOL = {"kind": "supervised", "networks": [NETWORK], "count": 2, "epochs": 1, "batch_size": 512}
ROOT = Path(tempfile.mkdtemp(prefix="datastill-tests-"))  # for teachers, made once for all tests
atexit.register(shutil.rmtree, ROOT, ignore_errors=True)

METHODS, PLUGINS = members(Method), members(Plugin)
LATENT = {"kind": "latent", "generator": "generators:Small", "shape": [4]}
PARAMETRIZATIONS: list[Any] = [LATENT if name == "latent" else name for name in members(Parametrization)]


@cache
def splits() -> ds.Splits:
    """The embedded digits."""
    return ds.Data(source="digits", validation=0.1).load(Path())


def method(name: str, **options: Any) -> Method:
    """A method found by name, made cheap."""
    cls = find(Method, name)
    cheap = {key: value for key, value in CHEAP.items() if key in cls.model_fields} | OWN.get(name, {})
    try:
        return load(cls, {**cheap, **options})
    except InputError:  # one that does not iterate
        cheap.pop("iterations", None)
        return load(cls, {**cheap, **options})


def plugin_options(name: str) -> dict[str, Any]:
    """What makes a plug-in cheap."""
    several = {**POOL, "networks": [NETWORK, "convnet:width=4,depth=1"], "count": 1}
    cheap: dict[str, Any] = {"pool": several if name == "metadd" else POOL, "backbone": {**POOL, "count": 1}, "batch_real": 32}
    return {key: value for key, value in cheap.items() if key in find(Plugin, name).model_fields}


def plugin(name: str, **options: Any) -> Plugin:
    """A plug-in found by name, made cheap."""
    return load(Plugin, {"kind": name, **plugin_options(name), **options})


def run(method_name: str = "distribution", **fields: Any) -> ds.Run:
    """A cheap run on digits, one image a class."""
    options = fields.pop("method_options", {})
    return load(ds.Run, {"method": method(method_name, **options), "network": NETWORK, "ipc": 1,
                         "data": ds.Data(source="digits", validation=0.1), **fields})


def task(of: ds.Run) -> ds.Task:
    """The task of a run on the digits."""
    return of.task(splits().train, root=ROOT)


def distill(of: ds.Run, folder: Path, **options: Any) -> ds.SyntheticSet:
    """Carry a run out."""
    return ds.distill(of, splits().train, folder, **{"root": ROOT, **options})


def iterating() -> list[str]:
    """Methods that have iterations."""
    return [name for name in METHODS if method(name).iterations]


class Pull(Method):
    """Pulls the images to zero: a method whose every number is known. Its streams are not used."""

    iterations: int = 4

    def start(self, task: ds.Task, ipc: int, rng: ds.RNG) -> ds.SyntheticSet:
        return task.synthetic(task.random_real(ipc, rng))

    def iterate(self, iteration: int, synthetic: ds.SyntheticSet, task: ds.Task, rng: ds.RNG) -> Iterator[ds.Step]:
        batch = synthetic.batch()
        yield ds.Step(0.5 * batch.x.square().sum(), batch, torch.nn.Identity())


class Poison(Plugin):
    """Not a number from iteration ``since`` on."""

    since: int = 2

    def loss(self, step: ds.Step, task: ds.Task, rng: ds.RNG) -> Tensor:
        bad = rng.path[2] >= self.since  # the path is (seed, "iteration", number, ...)
        return step.batch.x.sum() * (float("nan") if bad else 0.0)
