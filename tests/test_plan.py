"""The plan: extrapolates what it rehearsed, and refuses what distill would refuse."""

from __future__ import annotations

import pytest

import datastill as ds
import tiny
from datastill import plan as module
from datastill.description import load
from datastill.errors import InputError
from datastill.plan import Plan, plan
from datastill.protocols.dc import DC
from datastill.train import extrapolated
from kit import Told


def test_time_is_iterations_times_the_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    run = tiny.run(method_options={"iterations": 1000})
    found = plan(run, tiny.splits().train, DC(epochs=2, augment="none"), run.network, root=tiny.ROOT)
    assert found.per_iteration == 1.0  # the clock goes one second a call
    assert found.distill == 1001.0  # with the start
    assert found.iterations == 1000


def test_long_students_are_extrapolated_from_their_first_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    run = tiny.run("coreset")
    found = plan(run, tiny.splits().train, DC(epochs=499, augment="none"), run.network, root=tiny.ROOT)
    assert found.student == pytest.approx(500.0)
    assert (found.distill, found.iterations) == (1.0, 0)  # the start is all there is


def test_an_iteration_that_takes_long_is_rehearsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 20))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    calls = []
    advance = module.Loop.advance
    monkeypatch.setattr(module.Loop, "advance", lambda self: (calls.append(1), advance(self))[1])
    run = tiny.run(method_options={"iterations": 1000})
    found = plan(run, tiny.splits().train, DC(epochs=2, augment="none"), run.network, root=tiny.ROOT)
    assert (found.distill, found.per_iteration, found.rough) == (5 * 20_020.0, 100.0, True)  # of two of the ten classes
    assert len(calls) == 1


@pytest.mark.parametrize("name", tiny.METHODS)
def test_the_first_estimate_comes_from_a_part_of_an_iteration(name: str) -> None:
    run, rough, progress = tiny.run(name, ipc=4), list[Plan](), Told()
    found = plan(run, tiny.splits().train, DC(epochs=1), run.network, root=tiny.ROOT, progress=progress, first=rough.append)
    assert [one.rough for one in rough] == [True]
    assert (rough[0].iterations, found.rough) == (found.iterations, False)
    assert rough[0].disk == pytest.approx(found.disk, rel=0.1)
    assert [done for done, _ in progress.steps] == [0, 1, 2, 3]


def test_what_a_rehearsal_leaves_out_is_counted() -> None:
    task = tiny.task(tiny.run())
    assert tiny.method("distribution").rehearsal(task, 1)[2] == 5.0  # two of ten classes
    method, few, longer = tiny.method("gradient", outer=8, inner=3).rehearsal(task, 1)
    assert (method.outer, few.classes, longer) == (2, ("0", "1"), 20.0)  # type: ignore[attr-defined]
    method, few, longer = tiny.method("trajectory", steps=12).rehearsal(task, 1)
    assert (method.steps, few is task.real, longer) == (2, True, 6.0)  # type: ignore[attr-defined]


def test_long_epochs_are_tried_on_few_images() -> None:
    tried: list[int] = []
    assert extrapolated(lambda count: tried.append(count) or count / 2, 5000, 1e9) == 2500.0  # type: ignore[func-returns-value]
    assert tried == [16, 64, 256, 1024, 4096, 5000]
    tried.clear()
    assert extrapolated(lambda count: tried.append(count) or count / 2, 5000, 0.0) == 2500.0  # type: ignore[func-returns-value]
    assert tried == [16]


def test_sizes() -> None:
    run = tiny.run("coreset", ipc=3)
    found = plan(run, tiny.splits().train, DC(epochs=1), run.network, root=tiny.ROOT)
    assert found.disk == 30 * (64 * 4 + 64 + 10 * 4)  # images, view, labels
    assert found.memory > 2**20


def test_bad_run_is_refused() -> None:
    run = tiny.run(ipc=1000)
    with pytest.raises(InputError, match="ipc 1000 is more than"):
        plan(run, tiny.splits().train, DC(), run.network, root=tiny.ROOT)


def test_it_says_which_settings_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny.run("trajectory")
    monkeypatch.setattr(module.memory, "total", lambda device=None: 10**9)
    found = plan(run, tiny.splits().train, DC(epochs=1), run.network, root=tiny.ROOT)
    assert found.limit == 0.7 * 10**9
    assert set(found.settings) == {"gradient=exact", "gradient=tesla", "gradient=full"}


def test_a_protocol_with_a_recipe_for_each_network_is_planned() -> None:
    run = tiny.run()
    assert plan(run, tiny.splits().train, load(ds.Protocol, "tuned:epochs=2"), run.network, root=tiny.ROOT).student > 0  # type: ignore[type-abstract]
