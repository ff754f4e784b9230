"""The theory: what is outside its domain is refused, in words; limits and orders that must hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datastill.analysis import theory
from datastill.analysis.theory import Solution, crossover, simulate, solve
from datastill.errors import RunError
from kit import input_error


@pytest.mark.parametrize(("given", "says"), [
    ((0, 0.5), "alpha_tot: expected a number above 0"), ((-1, 0.5), "alpha_tot"), ((1e9, 0.5), "alpha_tot"), ((float("nan"), 0.5), "alpha_tot"),
    (("2", 0.5), "alpha_tot"), ((2, 0), "fraction: expected a number from 1e-06 to 1, got 0"), ((2, 1.5), "fraction"), ((2, True), "fraction"),
    ((2, 0.5, "soft"), "keep: expected easy, hard or random, got 'soft'"), ((2, 0.5, "easy", 90), "angle: expected degrees from 0 to below 90"),
    ((2, 1e-300), "fraction"), ((10**400, 0.5), "alpha_tot"), ((2, 0.5, "easy", -1), "angle"), ((2, 0.5, "easy", None), "angle")])
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


@pytest.mark.parametrize("alpha", [50, 120, 200, 300])
def test_with_many_samples_the_error_falls_as_one_over_alpha(alpha: float) -> None:
    """0.5005 / alpha, to a thousandth (found with four times as many nodes): kinks become sharper, and are resolved."""
    assert solve(alpha, 1.0).error * alpha == pytest.approx(0.5003, abs=1.5e-3)


@pytest.mark.parametrize("alpha", [500, 3000, 10_000])
def test_what_cannot_be_solved_is_said_in_time(alpha: float) -> None:
    with pytest.raises(RunError, match="no solution was found for all samples at alpha_prune"):
        solve(alpha, 1.0)


def test_numbers_of_every_kind_are_numbers() -> None:
    plain = solve(2, 0.5)
    assert solve(np.float32(2), np.float64(0.5)) == solve(np.int64(2), 0.5) == plain  # type: ignore[arg-type]
    assert solve(2, 0.9999999999999999, "hard", 20.0).error == pytest.approx(solve(2, 1.0).error, abs=1e-4)


def test_crossings_near_the_whole_are_not_rounding() -> None:
    with pytest.raises(RunError, match=r"up to alpha_prune 100 at fraction 0\.999"):
        crossover(0.999)


def test_crossings_are_looked_for_as_far_as_settings_go() -> None:
    with pytest.raises(RunError, match=r"easy samples are better up to alpha_prune 10 at fraction 0\.001"):
        crossover(0.001, 40)


@pytest.mark.parametrize(("options", "says"), [
    ({"dimension": 1}, "dimension: expected a whole number, 2 or more"), ({"dimension": 2.5}, "dimension"), ({"dimension": "a"}, "dimension"),
    ({"seed": -1}, "seed"), ({"seed": 1.5}, "seed"), ({"trials": 0}, "trials: expected a whole number, 1 or more"), ({"trials": -1}, "trials")])
def test_simulations_of_nothing_are_refused(options: dict[str, Any], says: str) -> None:
    with input_error(says):
        simulate(2, 0.5, **options)


def test_curves_and_maps_take_lists_and_arrays_and_nothing_else() -> None:
    one = theory.curves(np.array([0.5]), np.array([0.0]), alphas=np.array([1.0, 2.0]))  # type: ignore[arg-type]
    two = theory.curves([0.5], (0,), alphas=[1, 2])
    assert one.errors == two.errors
    for wrong in (0.5, "0.5", [], [None], [float("nan")]):
        with input_error("fractions: expected a list of numbers"):
            theory.curves(wrong)  # type: ignore[arg-type]
    with input_error("trials"):
        theory.curves([0.5], [0], alphas=[1.0], trials=-1)
    with input_error("alphas: expected ascending numbers"):
        theory.gap_map(0.0, [0.5], [2.0, 1.0])
    with input_error("fractions"):
        theory.gap_map(0.0, 0.5, [1.0, 2.0])  # type: ignore[arg-type]
