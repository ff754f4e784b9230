"""Guidance by teachers: who is asked, what is refused, what is kept on disk, and that it does its work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import datastill as ds
import tiny
from datastill.core import Plugin, Step
from datastill.description import load
from datastill.run import check_run
from datastill.task import Task
from datastill.teachers import Pool, Teachers
from datastill.teachers._snapshots import flat
from datastill.teachers.supervised import Supervised
from kit import input_error

PAIR = {**tiny.POOL, "networks": [tiny.NETWORK, "mlp"]}
OTHER = {**tiny.POOL, "data": {"source": "digits", "size": 16}}  # the same classes in another size


def guided(name: str, **options: Any) -> tuple[Task, Any]:
    run = tiny.run(ipc=2, plugins=(tiny.plugin(name, **options),))
    task = check_run(run, tiny.splits().train, root=tiny.ROOT)
    run.plugins[0].prepare(task)
    return task, run.plugins[0]


def step(task: Task) -> Step:
    batch = task.synthetic(task.random_real(2, ds.RNG(5))).batch()
    return Step(batch.x.sum() * 0, batch._replace(x=batch.x.detach().requires_grad_()), nn.Identity())


@pytest.mark.parametrize("name", ["clom", "cclom"])
def test_the_mean_is_the_mean_over_the_pool_with_factors(name: str) -> None:
    task, plugin = guided(name, pool=PAIR, draw="mean", factors=[2.0, 0.5])
    given, rng = step(task), ds.RNG(1)
    teachers = task.teachers(plugin.pool)
    each = [plugin.term(one, given, task, rng("real")) for one in teachers]
    expected = (2 * each[0] + 2 * each[1] + 0.5 * each[2] + 0.5 * each[3]) / 4
    torch.testing.assert_close(plugin.loss(given, task, rng), expected)


@pytest.mark.parametrize("name", ["clom", "cclom"])
def test_one_is_drawn_a_step(name: str) -> None:
    task, plugin = guided(name, pool=PAIR)
    given = step(task)
    teachers = list(task.teachers(plugin.pool))
    known = [float(plugin.term(one, given, task, ds.RNG(0, i)("real"))) for i in range(8) for one in teachers]
    drawn = [float(plugin.loss(given, task, ds.RNG(0, i))) for i in range(8)]
    assert [value in known[4 * i:4 * i + 4] for i, value in enumerate(drawn)] == [True] * 8
    assert len(set(drawn)) > 1


def test_teachers_are_asked_in_evaluation_mode_and_stay_what_they_are(tmp_path: Path) -> None:
    pool = {**tiny.POOL, "networks": ["convnet:width=4,depth=2,norm=batch"]}
    task, plugin = guided("clom", pool=pool)
    before = [flat(one.network).clone() for one in task.teachers(plugin.pool)]
    given = step(task)
    loss = plugin.loss(given, task, ds.RNG(0))
    loss.backward()
    assert given.batch.x.grad is not None
    assert given.batch.x.grad.abs().sum() > 0
    assert [torch.equal(flat(one.network), b) for one, b in zip(task.teachers(plugin.pool), before, strict=True)] == [True] * 2
    assert all(not one.network.training and all(p.grad is None for p in one.network.parameters())
               for one in task.teachers(plugin.pool))


@pytest.mark.parametrize("name", ["clom", "cclom"])
def test_following_it_makes_teachers_recognize_the_set(name: str) -> None:
    """Also teachers that were not asked."""
    pool = {**tiny.POOL, "networks": ["convnet:width=8,depth=2"], "epochs": 8, "batch_size": 64}
    task, plugin = guided(name, pool=pool, draw="mean", batch_real=256) if name == "cclom" else \
        guided(name, pool=pool, draw="mean")
    unseen = Supervised.model_validate({**{k: v for k, v in pool.items() if k != "kind"}, "seed": 100})
    unseen.prepare(task.context)
    generator = torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(20, *task.real.shape, generator=generator)
    y = torch.eye(10).repeat_interleave(2, dim=0)

    def entropy() -> float:
        with torch.no_grad():
            return float(torch.stack([nn.functional.cross_entropy(one.logits(x), y)
                                      for one in Teachers(unseen, task.context)]).mean())

    before, gradient_steps = entropy(), 30
    for i in range(gradient_steps):
        given = Step(x.sum() * 0, ds.Batch(x.clone().requires_grad_(), y), nn.Identity())
        (gradient,) = torch.autograd.grad(plugin.loss(given, task, ds.RNG(0, i)), given.batch.x)
        x = x - 0.5 * gradient / gradient.norm() * 2
    assert entropy() < before - 0.2


def test_teachers_of_other_images_see_their_own(tmp_path: Path) -> None:
    task, plugin = guided("cclom", pool=OTHER)
    given = step(task)
    assert [one.see(given.batch.x).shape[2:] for one in task.teachers(plugin.pool)] == [(16, 16)] * 2
    (gradient,) = torch.autograd.grad(plugin.loss(given, task, ds.RNG(0)), given.batch.x)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_features_of_real_images_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task, plugin = guided("cclom")
    plugin.loss(step(task), task, ds.RNG(0))
    task2, _ = guided("cclom")
    asked = {one.name: one for one in task2.teachers(plugin.pool)}
    kept = [path for one in asked.values() if one.folder for path in one.folder.glob("features-*.npy")]
    assert kept
    monkeypatch.setattr("datastill.teachers.pool.Teacher._write_directions", None)  # would be called where nothing is kept
    plugin.loss(step(task2), task2, ds.RNG(0))
    lengths = np.linalg.norm(np.load(kept[0]), axis=1)
    assert np.allclose(lengths[lengths > 0], 1, atol=1e-5)


@pytest.mark.parametrize(("options", "says"), [
    ({"factors": [1.0, 2.0]}, "factors: expected a number of at least 0 for each of the 1 networks of the pool, got [1.0, 2.0]"),
    ({"factors": [-1.0]}, "factors: expected a number of at least 0"),
    ({"draw": "two"}, "draw"),
    ({"pool": {"kind": "supervised", "count": 0}}, "count"),
    ({"pool": {"kind": "supervised", "epochs": 5, "epoch": 3}}, "epoch 3 is never stored; add it to snapshots (stored epochs: 0, 1, 2, 4, 5)"),
    ({"pool": {"kind": "superwised"}}, "did you mean 'supervised'"),
    ({"pool": {"kind": "supervised", "networks": ["convnet:width=0"]}}, "width"),
    ({"weight": -1.0}, "weight"),
])
@pytest.mark.parametrize("name", ["clom", "cclom"])
def test_settings_that_cannot_be(name: str, options: dict[str, Any], says: str) -> None:
    with input_error(says):
        load(Plugin, {"kind": name, **options})  # type: ignore[type-abstract]


def test_another_label_space_is_for_cclom(tmp_path: Path) -> None:
    train = tiny.splits().train
    few = train.targets < 3
    pixels, labels = train.pixels[few].permute(0, 2, 3, 1).numpy(), train.targets[few].numpy()
    np.savez(tmp_path / "few.npz", x_train=pixels, y_train=labels, x_test=pixels[:9], y_test=labels[:9])
    fewer = {**tiny.POOL, "batch_size": 64, "data": {"source": "npz", "path": str(tmp_path / "few.npz")}}
    with input_error("clom needs teachers of the run's classes: convnet:width=4,depth=2 knows 3 (0, 1, 2), the run has 10",
                     "use cclom"):
        guided("clom", pool=fewer)
    task, plugin = guided("cclom", pool=fewer)
    assert 0 < float(plugin.loss(step(task), task, ds.RNG(0))) < 1


def test_a_pool_that_does_not_fit_its_images() -> None:
    pool = load(Pool, {**tiny.POOL, "networks": ["convnet:depth=6"]})  # type: ignore[type-abstract]
    run = tiny.run(plugins=(tiny.plugin("clom", pool=pool),))
    with input_error("does not fit"):
        check_run(run, tiny.splits().train, root=tiny.ROOT)


def test_nothing_is_made_where_the_weight_is_zero(tmp_path: Path) -> None:
    run = tiny.run(plugins=(tiny.plugin("clom", weight=0.0),))
    ds.distill(run, tiny.splits().train, tmp_path / "out", root=tmp_path)
    assert not (tmp_path / "teachers").exists()


@pytest.mark.parametrize("harm", ["truncated", "empty", "zeros", "without its checksum"])
def test_damaged_features_are_computed_again(harm: str, tmp_path: Path) -> None:
    """They are kept to save time, and nothing is lost with them."""
    def value() -> float:
        run = tiny.run(plugins=(tiny.plugin("cclom"),))
        task = run.task(tiny.splits().train, root=tmp_path)
        run.plugins[0].prepare(task)
        return float(run.plugins[0].loss(step(task), task, ds.RNG(0)))

    sound = value()
    files = list(tmp_path.rglob("features-*.npy"))
    assert files
    for path in files:
        content = path.read_bytes()
        if harm == "without its checksum":
            path.with_name(f"{path.name}.json").unlink()
        else:
            path.write_bytes({"truncated": content[:-100], "empty": b"", "zeros": content[:128] + bytes(len(content) - 128)}[harm])
    assert value() == sound


def test_features_are_ready_before_the_first_iteration(tmp_path: Path) -> None:
    run = tiny.run(plugins=(tiny.plugin("cclom"),))
    run.plugins[0].prepare(run.task(tiny.splits().train, root=tmp_path))
    assert len(list(tmp_path.rglob("features-*.npy"))) == 2


def test_a_teacher_without_a_folder_has_features_all_the_same() -> None:
    task, plugin = guided("cclom")
    kept = next(iter(task.teachers(plugin.pool)))
    loose = replace(kept, folder=None)
    assert np.allclose(loose.directions(task.real), kept.directions(task.real), atol=1e-6)
