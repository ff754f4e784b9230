"""The published selection rule: the best snapshot, beside the score and never in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import datastill as ds
import tiny
from datastill import sheets, trials
from datastill.nets.mlp import MLP
from datastill.protocols.dc import DC
from datastill.scoring import Evaluation
from datastill.selection import check_snapshots, select
from datastill.statistics import statistics
from datastill.store import write_record
from kit import input_error

PROTOCOL, NETWORK = DC(epochs=3, lr=0.05, augment="none"), MLP(width=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.distill(tiny.run(method_options={"iterations": 4}), tmp_path / "run", keep=(1, 2))
    return tmp_path / "run"


def arguments(folder: Path) -> tuple[Any, ...]:
    return folder, ds.load(folder), Evaluation(PROTOCOL, NETWORK, tiny.splits().train, tiny.splits().test)


def test_the_best_of_all_snapshots_stands_beside_the_score(folder: Path, tmp_path: Path) -> None:
    before = trials.score(*arguments(folder), baselines=tmp_path, trials=2)
    found = select(*arguments(folder), trials=2)
    assert sorted(found["means"]) == [0, 1, 2, 4]
    assert statistics(found["accuracy"])["mean"] == max(found["means"].values()) == found["means"][found["iteration"]]
    assert found["means"][4] == pytest.approx(before["summary"]["synthetic"]["mean"])  # the last one is the set
    (sheet,) = sheets.read_sheets(folder)
    assert sheet["summary"] == before["summary"]
    assert (sheet["selected"]["iteration"], sheet["selected"]["of"]) == (found["iteration"], 4)
    again = trials.score(*arguments(folder), baselines=tmp_path, trials=2)
    assert again["selected"] == sheet["selected"]


def test_nobody_is_trained_twice(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials.score(*arguments(folder), baselines=tmp_path, trials=2)
    trained: list[int] = []
    real_student = trials.student
    monkeypatch.setattr(trials, "student", lambda *a, **k: trained.append(a[4]) or real_student(*a, **k))
    first = select(*arguments(folder), trials=2)
    assert len(trained) == 6
    assert select(*arguments(folder), trials=2) == first
    assert len(trained) == 6


def test_what_cannot_be_chosen_from(folder: Path, tmp_path: Path) -> None:
    with input_error("has not been scored by this protocol yet"):
        select(*arguments(folder))
    tiny.distill(tiny.run(), tmp_path / "plain")
    with input_error("has 2 snapshots", "--keep"):
        select(*arguments(tmp_path / "plain"))


def test_files_that_are_no_snapshots_are_named(folder: Path, tmp_path: Path) -> None:
    trials.score(*arguments(folder), baselines=tmp_path, trials=1)
    path = folder / "snapshots" / "000002.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with input_error("000002.safetensors is damaged: it cannot be read as safetensors"):
        check_snapshots(folder)
    path.rename(path.with_stem("best"))
    with input_error("best.safetensors is not a snapshot: expected an iteration number"):
        check_snapshots(folder)


def test_a_choice_of_another_form_is_named(folder: Path, tmp_path: Path) -> None:
    trials.score(*arguments(folder), baselines=tmp_path, trials=1)
    select(*arguments(folder), trials=1)
    for path in (folder / "scores").glob("*.json"):
        if "selected" in (content := json.loads(path.read_text())):
            write_record(path, {**content, "selected": "nonsense"})
    with input_error("its entry selected is not valid"):
        sheets.read_sheets(folder)
