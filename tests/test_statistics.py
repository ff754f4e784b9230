"""Means, intervals, paired differences, correlations: closed forms, and scipy only where it is used."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from scipy import stats

from datastill.statistics import average, difference, rank_correlation, seeds_needed, signed_rank, statistics


def test_statistics_closed_form() -> None:
    found = statistics([0.1, 0.2, 0.6])
    assert found["mean"] == pytest.approx(0.3)
    assert found["std"] == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    low, high = stats.t.interval(0.95, 2, loc=0.3, scale=found["std"] / math.sqrt(3))
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    assert statistics([0.5]) == {"mean": 0.5, "std": 0.0, "n": 1}


def test_a_difference_is_decided_where_its_interval_excludes_zero() -> None:
    clear, vague = difference([0.02, 0.03, 0.025]), difference([0.02, -0.01, 0.005])
    assert clear["decided"]
    assert clear["seeds_needed"] == 3
    assert not vague["decided"]
    half = stats.t.ppf(0.975, 2) * vague["std"] / math.sqrt(3)
    assert (vague["low"], vague["high"]) == pytest.approx((0.005 - half, 0.005 + half))
    assert not difference([0.5])["decided"]


@pytest.mark.parametrize(("mean", "std"), [(0.01, 0.02), (-0.01, 0.02), (1.0, 0.01), (0.003, 0.01)])
def test_so_many_seeds_and_not_one_less(mean: float, std: float) -> None:
    needed = seeds_needed(mean, std)
    assert needed is not None

    def half(n: int) -> float:
        return float(stats.t.ppf(0.975, n - 1) * std / math.sqrt(n))

    assert half(needed) < abs(mean)
    assert needed == 2 or half(needed - 1) >= abs(mean)


def test_too_many_seeds() -> None:
    assert seeds_needed(0.0, 0.01) is None
    assert seeds_needed(1e-6, 0.1) is None


def test_the_signs_and_ranks_of_differences() -> None:
    assert signed_rank([0.01, 0.02, 0.03, 0.04, 0.05, 0.06]) == pytest.approx(2 / 2**6)  # all of one sign
    assert signed_rank([0.06, 0.05, 0.04, 0.03, 0.02, -0.01]) == pytest.approx(4 / 2**6)
    assert signed_rank([0.01, -0.02, 0.03, -0.04, 0.05, -0.06]) > 0.5
    assert signed_rank([0.01] * 5) is None
    assert signed_rank([0.0] * 7) is None


def test_correlations() -> None:
    found = rank_correlation([1.0, 2.0, 3.0, 4.0], [0.4, 0.3, 0.2, 0.0])
    assert found["n"] == 4
    assert found["spearman"]["value"] == pytest.approx(-1)
    assert found["kendall"]["value"] == pytest.approx(-1)
    assert -1 < found["pearson"]["value"] < -0.9
    assert rank_correlation([1.0, 2.0], [1.0, 2.0]) == {}
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == {}


def test_the_mean_is_summed_exactly() -> None:
    assert average([1e16, 1.0, -1e16]) == 1 / 3


def test_scores_are_read_without_loading_scipy_stats() -> None:
    """It takes a second, and most commands never need it."""
    code = "import sys, datastill.scoring, datastill.sheets, datastill.analysis.judging; assert 'scipy.stats' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
