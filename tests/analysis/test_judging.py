"""Judging snapshots: what is measured, that it is kept, what cannot be judged, correlations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import datastill as ds
import tiny
from datastill.analysis.judging import judge
from datastill.analysis.meta_features import maps_of
from datastill.description import load
from datastill.functional.difficulty import gradient_norms
from datastill.teachers import Pool, Teachers
from kit import input_error


def made(root: Path, **fields: object) -> tuple[ds.Run, ds.Task, Teachers]:
    run = tiny.run(ipc=2, **fields)
    task = run.task(tiny.splits().train, root=root)
    ds.distill(run, task.real, root / "run", root=root, keep=(2,))
    pool = load(Pool, {**tiny.POOL, "epochs": 4, "batch_size": 64})  # type: ignore[type-abstract]
    pool.prepare(task.context)
    return run, task, task.teachers(pool)


def test_cross_entropy_and_accuracy_of_every_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _, teachers = made(tmp_path)
    judged = judge(tmp_path / "run", run, teachers)
    assert [one.iteration for one in judged] == [0, 2, 3]
    batch = ds.load(tmp_path / "run").batch()
    with torch.no_grad():
        entropy = [float(F.cross_entropy(one.logits(batch.x), batch.y)) for one in teachers]
        right = [float((one.logits(batch.x).argmax(1) == batch.y.argmax(1)).float().mean()) for one in teachers]
    assert judged[-1].cross_entropy == pytest.approx(sum(entropy) / 2)
    assert judged[-1].accuracy == pytest.approx(sum(right) / 2)
    norms = [gradient_norms(one.network, batch.x, batch.y).mean() for one in teachers]
    assert judged[-1].gradn == pytest.approx(float(sum(norms)) / 2, rel=1e-5)
    monkeypatch.setattr("datastill.analysis.judging._one", None)  # would be called where nothing is kept
    assert judge(tmp_path / "run", run, teachers) == judged


def test_judges_of_several_architectures_are_asked_what_they_see_alike(tmp_path: Path) -> None:
    run, task, teachers = made(tmp_path)
    assert judge(tmp_path / "run", run, teachers)[-1].overlap is None
    for networks, there in ((["convnet:width=4,depth=1", "vit:width=12,depth=1,patch=2"], True), (["convnet:width=4,depth=1", "mlp:width=8"], False)):
        pool = load(Pool, {**tiny.POOL, "count": 1, "networks": networks})  # type: ignore[type-abstract]
        pool.prepare(task.context)
        last = judge(tmp_path / "run", run, task.teachers(pool))[-1]
        assert (last.overlap is not None) == there
        if there:
            batch = ds.load(tmp_path / "run").batch()
            maps = torch.stack([maps_of(one, batch.x, batch.y.argmax(1)) for one in task.teachers(pool)])
            seen = maps >= 0.5
            assert last.overlap == pytest.approx(float(seen.all(0).sum() / seen.any(0).sum()))
            assert last.empty == pytest.approx(1 - float(seen.flatten(2).any(2).double().mean()))
            seen = seen[:, seen.flatten(2).any(2).all(0)]
            assert last.common == pytest.approx(float(seen.all(0).sum() / seen.any(0).sum()))


def test_judges_that_see_nothing_have_no_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, task, _ = made(tmp_path)
    pool = load(Pool, {**tiny.POOL, "count": 1, "networks": ["convnet:width=4,depth=1", "vit:width=12,depth=1,patch=2"]})  # type: ignore[type-abstract]
    pool.prepare(task.context)
    monkeypatch.setattr("datastill.analysis.judging.maps_of", lambda teacher, x, y: torch.zeros(len(x), 8, 8))
    last = judge(tmp_path / "run", run, task.teachers(pool))[-1]
    assert (last.overlap, last.common, last.empty) == (None, None, 1.0)


def test_an_edited_judgement_is_refused(tmp_path: Path) -> None:
    run, _, teachers = made(tmp_path)
    judged = judge(tmp_path / "run", run, teachers)
    (kept,) = (tmp_path / "run" / "analysis").glob("judged-*.json")
    kept.write_text(kept.read_text().replace('"accuracy"', '"accurate"'))
    with input_error(str(kept), "edited", "delete it to judge again"):
        judge(tmp_path / "run", run, teachers)
    kept.unlink()
    assert judge(tmp_path / "run", run, teachers) == judged


def test_what_cannot_be_judged(tmp_path: Path) -> None:
    run, task, teachers = made(tmp_path)
    for path in (tmp_path / "run" / "snapshots").iterdir():
        path.unlink()
    with input_error("has no snapshots to analyze"):
        judge(tmp_path / "run", run, teachers)
    train = tiny.splits().train
    few = train.targets < 2
    np.savez(tmp_path / "few.npz", x_train=train.pixels[few].permute(0, 2, 3, 1).numpy(), y_train=train.targets[few].numpy())
    other = load(Pool, {**tiny.POOL, "batch_size": 32, "data": {"source": "npz", "path": str(tmp_path / "few.npz")}})  # type: ignore[type-abstract]
    other.prepare(task.context)
    ds.distill(tiny.run(), train, tmp_path / "run2", root=tmp_path)
    with input_error("class '2' is not among the 2 classes it knows", "teacher convnet"):
        judge(tmp_path / "run2", tiny.run(), task.teachers(other))
