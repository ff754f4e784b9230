"""Pools and teachers in general: what can be asked of a teacher, the run's own network, making them from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill.core import Step
from datastill.description import load
from datastill.functional.batchnorm import statistics
from datastill.nets import Architecture
from datastill.nets.convnet import ConvNet
from datastill.nets.mlp import MLP
from datastill.plugins._guidance import Guidance
from datastill.recipes import read_pools
from datastill.run import check_run
from datastill.task import Task
from datastill.teachers import Context, Pool, Teacher, Teachers
from datastill.teachers.experts import Experts
from datastill.teachers.supervised import Supervised
from kit import Told, input_error

BATCH = "convnet:width=4,depth=2,norm=batch"


def pool(**options: Any) -> Supervised:
    return load(Pool, {**tiny.POOL, **options})  # type: ignore[type-abstract, return-value]


def context(root: Path) -> Context:
    return Context(tiny.splits().train, root, root)


def network(name: str) -> Architecture:
    return load(Architecture, name)  # type: ignore[type-abstract]


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_a_teacher_says_what_it_gives(tmp_path: Path) -> None:
    plain, batch = Teachers(pool(networks=[tiny.NETWORK, BATCH], count=1), context(tmp_path))
    assert plain.gives == {"logits", "features", "maps"}
    assert batch.gives == {"logits", "features", "maps", "statistics"}
    x = tiny.splits().train.batch(torch.arange(6)).x
    assert batch.logits(x).shape == (6, 10)
    assert list(batch.maps(x)) == ["block1", "block2"]
    assert torch.equal(batch.maps(x)["block2"], batch.network.maps(x)["block2"])  # type: ignore[operator]
    x.requires_grad_()
    found = batch.statistics(x)
    assert torch.equal(found["features.norm1"].mean, statistics(batch.network, batch.see(x))["features.norm1"].mean)
    assert torch.autograd.grad(sum(one.var.sum() for one in found.values()), x)[0].abs().sum() > 0
    with input_error("does not provide statistics because it has no batch normalization", "it provides features, logits, maps"):
        plain.statistics(x)


def test_maps_and_statistics_are_of_images_as_the_teacher_knows_them(tmp_path: Path) -> None:
    other = pool(networks=[BATCH], count=1, data={"source": "digits", "size": 16})
    teacher = Teachers(other, context(tmp_path))[0]
    x = tiny.splits().train.batch(torch.arange(6)).x
    assert torch.equal(teacher.maps(x)["block1"], teacher.network.maps(teacher.see(x))["block1"])  # type: ignore[operator]
    assert teacher.see(x).shape[2:] == (16, 16)
    assert torch.equal(teacher.statistics(x)["features.norm1"].mean,
                       statistics(teacher.network, teacher.see(x))["features.norm1"].mean)


class Remembered(Guidance):
    """Statistics as the teacher remembers them (as a user would write it)."""

    asks = frozenset({"statistics"})

    def term(self, teacher: Teacher, step: Step, task: Task, rng: ds.RNG) -> torch.Tensor:
        found = teacher.statistics(step.batch.x).values()
        return torch.stack([(s.mean - s.running_mean).norm() + (s.var - s.running_var).norm() for s in found]).sum()


def test_what_a_plugin_asks_is_seen_to_before_the_work(tmp_path: Path) -> None:
    run = tiny.run(ipc=2, plugins=(Remembered(pool=pool(networks=[BATCH]), weight=0.1),))
    tiny.distill(run, tmp_path / "run")
    without = tiny.run(plugins=(Remembered(pool=pool()),))
    with input_error(f"teacher {tiny.NETWORK} does not provide statistics", "it provides features, logits, maps"):
        check_run(without, tiny.splits().train)


def test_they_stand_in_the_order_of_the_pool(tmp_path: Path) -> None:
    teachers = Teachers(pool(networks=[tiny.NETWORK, "mlp:width=8"]), context(tmp_path))
    assert [teachers[number] for number in range(4)] == list(teachers)
    assert teachers[1] is teachers.teacher(0, 1)
    assert teachers[2] is teachers.teacher(1, 0)
    assert teachers[-1] is teachers.teacher(1, 1)
    with pytest.raises(IndexError):
        teachers[4]


# --- the run's own network --------------------------------------------------------------------------------------------


def test_no_networks_are_the_runs_own() -> None:
    assert pool(networks=[]).for_network(MLP()) == pool(networks=["mlp"])
    assert pool().for_network(MLP()) == pool()
    assert Experts().for_network(MLP()).networks == (MLP(),)
    assert Supervised().for_network(MLP()).networks == (ConvNet(),)


def test_a_network_that_is_named_is_meant() -> None:
    """Also where it is the one that would be taken without a word."""
    options = {"pool": {"kind": "experts", "networks": ["convnet"], "snapshots": []}}
    run = tiny.run("trajectory", method_options=options)
    assert run.pools()[0].networks == (ConvNet(),)
    with input_error("the experts are convnet, the run's network is convnet:width=4,depth=2"):
        check_run(run, tiny.splits().train)
    assert tiny.run("trajectory").pools()[0].networks == (network(tiny.NETWORK),)


@pytest.mark.parametrize("name", ["clom", "cclom"])
def test_plugins_ask_teachers_of_the_runs_network(name: str, tmp_path: Path) -> None:
    given = {"pool": {**tiny.POOL, "networks": []}, "draw": "mean", "factors": [2.0]}
    run = tiny.run(ipc=2, plugins=(tiny.plugin(name, **given),))
    named = tiny.run(ipc=2, plugins=(tiny.plugin(name, **{**given, "pool": tiny.POOL}),))
    assert run.pools() == named.pools()
    assert torch.equal(tiny.distill(run, tmp_path / "a").batch().x, tiny.distill(named, tmp_path / "b").batch().x)
    with input_error("factors: expected a number of at least 0 for each of the 1 networks"):
        tiny.plugin(name, **{**given, "factors": [1.0, 2.0]})


def test_without_a_run_one_has_to_be_named(tmp_path: Path) -> None:
    for act in (lambda some: some.check(context(tmp_path)), lambda some: some.prepare(context(tmp_path)),
                lambda some: Teachers(some, context(tmp_path))):
        with input_error("pool.networks is empty"):
            act(pool(networks=[]))
    assert read_pools("experts")[0][0].networks == (ConvNet(),)  # what `datastill teach` takes


def test_teachers_are_called_what_they_always_were(tmp_path: Path) -> None:
    """Golden: names of folders written before a pool could leave its networks open."""
    digits = context(tmp_path)
    assert digits.real.fingerprint == "207accdac114"

    def name(some: Pool) -> str:
        return some.for_network(ConvNet()).places(digits)[0].name

    assert name(Supervised(count=1)) == "convnet-9abb2f69ea4d406c"
    assert name(Experts(count=1)) == name(Experts(count=1, networks=(ConvNet(),))) == "convnet-fc2cb26cc90c3b8e"
    assert name(Experts(count=1, networks=(MLP(),))) == "mlp-a8f59ebb636581a3"
    run = tiny.run("trajectory")
    assert run.pools()[0].places(digits)[0].name == "convnet-765f8a3d8eb97efb"


# --- from Python ------------------------------------------------------------------------------------------------------


def test_fit_makes_what_is_missing(tmp_path: Path) -> None:
    train, told = tiny.splits().train, Told()
    some = Supervised(networks=(tiny.NETWORK,), count=2, epochs=1, batch_size=512)  # type: ignore[arg-type]
    teachers = some.fit(train, root=tmp_path, progress=told)
    assert told.steps == [(1, 2), (2, 2)]
    assert len(teachers) == len(list((tmp_path / "teachers").iterdir())) == 2
    assert teachers[0].logits(train.batch(torch.arange(3)).x).shape == (3, 10)
    some.fit(train, root=tmp_path, progress=told)
    assert len(told.steps) == 2
    with input_error("does not fit"):
        Supervised(networks=(ConvNet(depth=6),)).fit(train, root=tmp_path)


def test_teachers_are_fitted_to_any_dataset(tmp_path: Path) -> None:
    images = tiny.splits().train.subset(torch.arange(60))
    pool = ds.Supervised(networks=tiny.NETWORK, count=1, epochs=0, validation=0.0)  # type: ignore[arg-type]
    assert pool.fit((images.pixels, images.targets), root=tmp_path)
    with pytest.raises(ds.InputError, match="NoneType"):
        pool.fit(None, root=tmp_path)
