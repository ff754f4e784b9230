"""Protocols at a learned learning rate: taken from the set, refused where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

import datastill as ds
import tiny
from datastill.core import Protocol
from datastill.description import load
from datastill.protocols.datm import DATM
from datastill.protocols.dc import DC
from datastill.protocols.mtt import MTT
from datastill.scoring import Evaluation
from datastill.trials import score
from kit import input_error


def test_they_are_dc_but_for_the_step_size_and_the_batch() -> None:
    assert MTT().for_set(0.02).schedule() == DC(lr=0.02).schedule()
    assert (MTT().batch_size, DATM().batch_size) == (256, 128)
    assert DC().for_set(0.5) == DC()
    assert load(Protocol, "dc:lr=learned").for_set(0.5).lr == 0.5  # type: ignore[type-abstract, attr-defined]


@pytest.mark.parametrize("name", ["mtt", "datm", "dc:lr=learned"])
def test_without_a_learned_step_size_they_refuse(name: str) -> None:
    run = tiny.run()
    task = tiny.task(run)
    with input_error("learning rate learned with a set, but this set has none", "give one, as in lr=0.01"):
        ds.evaluate(run.method.start(task, 1, ds.RNG(0)), name, tiny.splits().test, network=tiny.NETWORK, trials=1)


def test_the_sheet_says_which_step_size_it_was(tmp_path: Path) -> None:
    run = tiny.run("trajectory", method_options={"lr_net": 0.03, "optim": {"inner_lr": {"lr": 0.0}}})
    tiny.distill(run, tmp_path / "run")
    distilled = ds.load(tmp_path / "run")
    assert distilled.lr == pytest.approx(0.03)
    evaluation = Evaluation(MTT(epochs=1, augment="none"), run.network, tiny.splits().train, tiny.splits().test)
    sheet = score(tmp_path / "run", distilled, evaluation, trials=1, baselines=tmp_path / "baselines")
    assert sheet["protocol"]["lr"] == pytest.approx(0.03)
    assert len(sheet["random"]) == 1
