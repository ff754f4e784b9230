"""Erasing what networks see: the masks are what they say, students differ by them alone, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill.analysis.erasing import WAYS, _masks, erasing
from datastill.description import load
from datastill.functional.invariance import masks
from datastill.store import locked, read_record
from datastill.teachers import Pool, Teachers
from kit import input_error

POOL = {**tiny.POOL, "networks": [tiny.NETWORK, "convnet:width=4,depth=1"], "count": 1}


def teachers(**options: Any) -> Teachers:
    pool = load(Pool, {**POOL, **options})  # type: ignore[type-abstract]
    context = tiny.task(tiny.run()).context
    pool.prepare(context)
    return Teachers(pool, context)


def test_the_masks() -> None:
    seen = masks(torch.rand(3, 6, 8, 8))
    found = dict(_masks(seen, 1, ds.RNG(0)))
    assert list(found) == list(WAYS)
    assert not found["nothing"].any()
    assert torch.equal(found["meta"], seen.meta)
    assert torch.equal(found["own heterogeneous"], seen.heterogeneous[:, 1])
    others = found["others' heterogeneous"]
    assert torch.equal(others, (seen.heterogeneous[:, 0] | seen.heterogeneous[:, 2]) & ~seen.heterogeneous[:, 1])
    assert not (others & (found["meta"] | found["own heterogeneous"])).any()
    assert found["as much elsewhere"].sum() == found["meta"].sum()
    assert not torch.equal(found["as much elsewhere"], found["meta"])


def test_students_of_whole_and_erased_images() -> None:
    splits = tiny.splits()
    found = erasing(teachers(), splits.train, splits.test, count=300, epochs=3, trials=2, batch_size=32)
    assert [(one.network, one.way) for one in found][:5] == [(found[0].network, way) for way in WAYS]
    assert len(found) == 10
    by_way = {one.way: one for one in found[5:]}
    assert by_way["nothing"].share == 0
    assert 0 < by_way["meta"].share == by_way["as much elsewhere"].share < 1
    assert all(0 <= score <= 1 for one in found for score in one.accuracies)
    again = erasing(teachers(), splits.train, splits.test, count=300, epochs=3, trials=1, batch_size=32)
    assert [one.accuracies[0] for one in again] == [one.accuracies[0] for one in found]
    assert by_way["nothing"].summary["n"] == 2


class _StopsAfter(ds.Progress):
    """Stops when it has been told so often of a student."""

    def __init__(self, students: int) -> None:
        self.left = students + 1  # the maps are told first

    def tell(self, done: int, of: int, note: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise ds.Stopped


def _erasing(root: Path | None, trials: int = 1, progress: ds.Progress = ds.Progress()) -> list[Any]:
    splits = tiny.splits()
    return erasing(teachers(), splits.train, splits.test, count=100, epochs=1, trials=trials, batch_size=64, root=root,
                   progress=progress)


def test_students_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _erasing(None, trials=2)
    with pytest.raises(ds.Stopped):
        _erasing(tmp_path, progress=_StopsAfter(4))
    (place,) = tmp_path.glob("erasing/*/students.json")
    assert sum(map(len, read_record(place, "")["students"].values())) == 4
    real, trained = ds.analysis.erasing._student, []
    monkeypatch.setattr("datastill.analysis.erasing._student", lambda *args: trained.append(1) or real(*args))
    assert _erasing(tmp_path, trials=2) == whole
    assert len(trained) == 20 - 4
    assert _erasing(tmp_path, trials=1) == [one._replace(accuracies=one.accuracies[:1]) for one in whole]
    assert len(trained) == 20 - 4


def test_a_student_can_be_stopped(tmp_path: Path) -> None:
    class Stops(ds.Progress):
        def check(self) -> None:
            raise ds.Stopped

    with pytest.raises(ds.Stopped):
        _erasing(tmp_path, progress=Stops())


def test_kept_students_that_are_in_use_or_were_altered(tmp_path: Path) -> None:
    _erasing(tmp_path)
    (place,) = tmp_path.glob("erasing/*/students.json")
    with locked(place.parent), input_error("in use"):
        _erasing(tmp_path)
    place.write_text(place.read_text().replace("0.", "0.1", 1))
    with input_error("students.json is damaged", "delete it"):
        _erasing(tmp_path)


@pytest.mark.parametrize(("options", "says"), [
    ({"count": 0}, "count"), ({"count": 10**6}, "or fewer"), ({"threshold": 0.0}, "threshold"), ({"threshold": 2}, "threshold"),
    ({"lr": -1.0}, "lr"), ({"lr": "x"}, "lr"), ({"epochs": 0}, "epochs"), ({"trials": 0}, "trials"), ({"seed": -1}, "seed"), ({"batch_size": 0}, "batch_size")])
def test_bad_input(options: dict[str, Any], says: str) -> None:
    with input_error(says):
        erasing(teachers(), tiny.splits().train, tiny.splits().test, **options)


def test_one_network_sees_nothing_alike() -> None:
    with input_error("2 networks of each", "pool.count=1"):
        erasing(teachers(count=2), tiny.splits().train, tiny.splits().test)
    with input_error("at least two"):
        erasing(teachers(networks=[tiny.NETWORK]), tiny.splits().train, tiny.splits().test)
