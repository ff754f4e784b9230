"""Finding a recipe: on random real images, on the validation split, resumed, divergence told."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from datastill import tuning
from datastill.digest import spec
from datastill.nets.lenet import LeNet
from datastill.nets.mlp import MLP
from datastill.protocols.dc import DC
from datastill.tuning import grid, tune
from kit import Told, input_error

NETWORK = MLP(width=8)


def test_a_grid_is_every_combination() -> None:
    protocols = grid(DC(epochs=3), ["lr=0.01,0.1", "momentum=0.0,0.5,0.9"])
    assert [(p.lr, p.momentum, p.epochs) for p in protocols] == [  # type: ignore[attr-defined]
        (lr, momentum, 3) for lr in (0.01, 0.1) for momentum in (0.0, 0.5, 0.9)]
    assert grid(DC(), []) == [DC()]


def test_a_key_given_twice_is_one_list_and_equal_protocols_are_tried_once() -> None:
    assert [p.lr for p in grid(DC(), ["lr=0.01", "lr=0.1,0.01"])] == [0.01, 0.1]  # type: ignore[attr-defined]


def test_what_cannot_be_tuned_is_refused_before_the_work(tmp_path: Path) -> None:
    with input_error("ipc 500", "training images of class", "ipc="):
        tune([DC()], NETWORK, tiny.splits(), 500, baselines=tmp_path)
    with input_error("does not fit"):
        tune([DC()], LeNet(), tiny.splits(), 1, baselines=tmp_path)


@pytest.mark.parametrize(("setting", "part"), [("lr", "key=value"), ("lr=", "key=value"), ("lr=1,,2", "key=value"),
                                               ("learning=1", "learning"), ("lr=-1", "lr")])
def test_a_wrong_setting_is_named(setting: str, part: str) -> None:
    with input_error(part):
        grid(DC(), [setting])


def test_the_best_comes_first_and_nothing_is_run_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocols = grid(DC(epochs=20, augment="none"), ["lr=0.000001,0.2"])
    told = Told()
    tried = tune(protocols, NETWORK, tiny.splits(), 2, baselines=tmp_path, trials=2, progress=told)
    assert [one.protocol.lr for one in tried] == [0.2, 0.000001]  # type: ignore[attr-defined]
    assert tried[0].mean > tried[1].mean
    assert told.steps == [(done, 84) for done in range(1, 85)]  # 2 protocols, 2 students, 21 epochs
    assert all(spec(protocol) in told.told[42 * number][2] for number, protocol in enumerate(protocols))
    monkeypatch.setattr("datastill.trials.student", None)  # would fail if it were called
    assert tune(protocols, NETWORK, tiny.splits(), 2, baselines=tmp_path, trials=2) == tried


def test_students_are_measured_on_validation_images_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = tuning.random_real
    monkeypatch.setattr(tuning, "random_real", lambda evaluation, ipc, **more: (
        seen.append((evaluation.images, evaluation.split)), real(evaluation, ipc, **more))[1])
    tune([DC(epochs=2, augment="none")], NETWORK, tiny.splits(), 1, baselines=tmp_path, trials=1)
    assert seen == [(tiny.splits().validation, "validation")]
    with input_error("data.validation"):
        tune([DC()], NETWORK, tiny.splits()._replace(validation=None), 1, baselines=tmp_path)


def test_a_recipe_that_diverges_comes_last_with_the_reason(tmp_path: Path) -> None:
    tried = tune(grid(DC(epochs=5, augment="none"), ["lr=1e20,0.1"]), NETWORK, tiny.splits(), 1, baselines=tmp_path, trials=1)
    assert [bool(one.failed) for one in tried] == [False, True]
    assert "diverged" in tried[1].failed
