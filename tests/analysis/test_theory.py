"""The theory: what is outside its domain is refused, in words; limits and orders that must hold."""

from __future__ import annotations

from typing import Any

import pytest

from datastill.analysis import theory
from datastill.analysis.theory import Solution, crossover, simulate, solve
from datastill.errors import RunError
from kit import input_error


@pytest.mark.parametrize(("given", "says"), [
    ((0, 0.5), "alpha_tot: expected a number above 0"), ((-1, 0.5), "alpha_tot"), ((1e9, 0.5), "alpha_tot"), ((float("nan"), 0.5), "alpha_tot"),
    (("2", 0.5), "alpha_tot"), ((2, 0), "fraction: expected a number above 0 and at most 1, got 0"), ((2, 1.5), "fraction"), ((2, True), "fraction"),
    ((2, 0.5, "soft"), "keep: expected easy, hard or random, got 'soft'"), ((2, 0.5, "easy", 90), "angle: expected degrees from 0 to below 90"),
    ((2, 0.5, "easy", -1), "angle"), ((2, 0.5, "easy", None), "angle")])
def test_what_is_outside_the_domain_is_refused(given: tuple[Any, ...], says: str) -> None:
    with input_error(says):
        solve(*given)
    with input_error(says):
        simulate(*given)


def test_a_fraction_that_leaves_no_sample() -> None:
    with input_error("leaves none"):
        simulate(1, 0.001, dimension=20)
    with input_error("fraction", "less than 1"):
        crossover(1.0)


def test_where_easy_ones_always_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theory, "solve", lambda total, fraction, keep, angle: Solution({"easy": 0.1, "hard": 0.2}[keep], 0, 0, 0))
    with pytest.raises(RunError, match=r"easy samples are better up to alpha_prune 100 at fraction 0\.3"):
        crossover(0.3)


def test_more_samples_are_better() -> None:
    for keep in ("easy", "hard", "random"):
        errors = [solve(alpha, 0.3, keep, 10.0).error for alpha in (1, 3, 10, 30)]  # type: ignore[arg-type]
        assert errors == sorted(errors, reverse=True)
        assert 0 < errors[-1] < errors[0] < 0.5


def test_a_probe_that_knows_less_helps_less() -> None:
    errors = [solve(10, 0.2, "easy", angle).error for angle in (0.0, 20.0, 40.0)]
    assert errors == sorted(errors)
    assert errors[0] < solve(10, 0.2, "random").error / 2


def test_simulations_are_reproducible() -> None:
    assert simulate(1, 0.5, dimension=20, trials=2) == simulate(1, 0.5, dimension=20, trials=3)[:2]
    assert simulate(1, 0.5, dimension=20, trials=1) != simulate(1, 0.5, dimension=20, trials=1, seed=1)
