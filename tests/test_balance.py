"""Ratios of gradient norms: geometric means, by hand; the bound; what is frozen; when it is measured."""

from __future__ import annotations

import math

import pytest

from datastill.balance import BOUND, EVERY, WINDOW, Balance
from datastill.core import Plugin
from datastill.plugins.total_variation import TotalVariation


def balance(mode: str = "gradient", weight: float = 1.0) -> Balance:
    plugins: dict[str, Plugin] = {"tv": TotalVariation(balance=mode, weight=weight), "other": TotalVariation()}  # type: ignore[arg-type]
    return Balance(plugins)


def measure(one: Balance, *ratios: float) -> None:
    """Iterations of one step each."""
    for ratio in ratios:
        one.measured({"method": 3.0 * ratio, "tv": 3.0})
        one.close()


def test_before_and_in_the_first_iteration() -> None:
    one = balance()
    assert (one.ratio("tv"), one.ratio("other")) == (0.0, 1.0)
    one.measured({"method": 8.0, "tv": 2.0})
    assert one.ratio("tv") == pytest.approx(4)
    one.measured({"method": 2.0, "tv": 2.0})
    assert one.ratio("tv") == pytest.approx(2)  # the geometric mean of 4 and 1
    one.close()
    assert one.ratio("tv") == pytest.approx(2)


def test_an_iteration_of_many_steps_is_one_measurement() -> None:
    many, few = balance(), balance()
    for ratio in (1, 4, 16):
        many.measured({"method": ratio, "tv": 1.0})
    many.close()
    measure(few, 4)
    measure(many, 9)
    measure(few, 9)
    assert many.ratio("tv") == pytest.approx(few.ratio("tv")) == pytest.approx(6)


def test_a_running_geometric_mean() -> None:
    one, values = balance(), [math.exp(k % 3) for k in range(WINDOW)]
    measure(one, *values)
    assert one.ratio("tv") == pytest.approx(math.prod(values) ** (1 / WINDOW))
    before = math.log(one.ratio("tv"))
    measure(one, 5.0)
    assert math.log(one.ratio("tv")) == pytest.approx(before + (math.log(5) - before) / WINDOW)


@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_it_stays_within_the_bound_of_where_it_began(factor: float) -> None:
    """In the study of guidance, a ratio that was taken as measured grew from 27 to 600,000."""
    one = balance()
    measure(one, *[27.0] * WINDOW, *[27.0 * factor] * 100)
    assert one.ratio("tv") == pytest.approx(27 * (BOUND if factor > 1 else 1 / BOUND))
    measure(one, *[27.0] * 100)  # and comes back
    assert one.ratio("tv") == pytest.approx(27, rel=1e-2)


def test_at_the_start_only() -> None:
    one = balance("start")
    assert all(one.due(iteration) for iteration in (0, 1, 7))
    measure(one, *[2.0] * WINDOW)
    assert not any(one.due(iteration) for iteration in range(10 * EVERY))
    measure(one, 1e6)  # measured for the log
    assert one.ratio("tv") == pytest.approx(2)


def test_when_it_is_measured() -> None:
    one = balance()
    measure(one, *[1.0] * (WINDOW - 1))
    assert one.due(WINDOW - 1)
    measure(one, 1.0)
    assert [iteration for iteration in range(100) if one.due(iteration)] == [0, 20, 40, 60, 80]
    assert not balance("fixed").due(0)
    assert not balance(weight=0.0).due(0)


def test_a_norm_of_zero_tells_nothing() -> None:
    one = balance()
    for norms in ({"method": 1.0, "tv": 0.0}, {"method": 0.0, "tv": 1.0}, {"method": 1.0}):
        one.measured(norms)
        one.close()
    assert one.ratio("tv") == 0.0
    measure(one, 3.0)
    assert one.ratio("tv") == pytest.approx(3)


def test_it_goes_on_from_its_state() -> None:
    one, other = balance(), balance()
    measure(one, *range(1, 15))
    other.restore(one.state())
    for both in (one, other):
        measure(both, 40.0, 50.0)
    assert other.ratio("tv") == one.ratio("tv")
    assert other.state() == one.state()
