"""The task: what it draws of the real images."""

from __future__ import annotations

import pytest
import torch

import datastill as ds
import tiny
from datastill.data import Images


def test_random_images_of_all_classes_are_those_of_each_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny.task(tiny.run())
    each = [task.real.sample(3, ds.RNG(0)(c), of_class=c) for c in range(10)]
    calls, batch = [], Images.batch
    monkeypatch.setattr(Images, "batch", lambda self, rows: (calls.append(len(rows)), batch(self, rows))[1])
    found = task.random_real(3, ds.RNG(0))
    assert torch.equal(found.x, torch.cat([one.x for one in each]))
    assert torch.equal(found.y, torch.cat([one.y for one in each]))
    assert calls == [30]


def test_no_more_real_images_are_matched_on_than_the_largest_class_has() -> None:
    task = tiny.task(tiny.run())
    most = max(map(len, task.real.of_class))
    assert len(task.real_batch(5000, ds.RNG(0)).x) == most * task.classes
    assert torch.equal(task.real_batch(3, ds.RNG(0)).x, task.random_real(3, ds.RNG(0)).x)
