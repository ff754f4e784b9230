"""Means with their spread, paired differences, correlations. scipy is imported where it is used: it takes a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MOST = 10_000  # seeds; beyond that, a difference is reported as too small to decide


def average(values: Sequence[float]) -> float:
    """The mean, summed exactly."""
    return math.fsum(values) / len(values)


def statistics(values: Sequence[float]) -> dict[str, float]:
    """mean, std (n - 1), n, and the 95 % confidence interval of the mean (low, high; Student's t) where n > 1."""
    n, mean = len(values), average(values)
    if n == 1:
        return {"mean": mean, "std": 0.0, "n": 1}
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = _half(n, std)
    return {"mean": mean, "std": std, "n": n, "low": mean - half, "high": mean + half}


def difference(values: Sequence[float]) -> dict[str, Any]:
    """Paired differences (fractions): statistics, whether the 95 % interval excludes 0, and if not how many seeds of the
    same mean and spread would. Equal differences decide nothing: their spread is not known yet."""
    found: dict[str, Any] = {**statistics(values), "values": list(values)}
    found["decided"] = found["n"] > 1 and found["std"] > 0 and (found["low"] > 0 or found["high"] < 0)
    found["seeds_needed"] = found["n"] if found["decided"] else \
        found["n"] + 1 if found["std"] == 0 and found["mean"] else seeds_needed(found["mean"], found["std"])
    return found


def seeds_needed(mean: float, std: float) -> int | None:
    """The fewest pairs of this mean and spread whose 95 % interval excludes 0; None if that takes too many."""
    if mean == 0:
        return None
    return next((n for n in range(2, MOST) if _half(n, std) < abs(mean)), None)


def _half(n: int, std: float) -> float:
    """Half the width of the 95 % confidence interval of a mean."""
    from scipy import stats
    return float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n)


def auroc(scores: np.ndarray, targets: np.ndarray) -> float | None:
    """Area under the ROC curve of each class against the rest, mean over the classes that occur; None for a single class.

    scores (N, K), targets (N,) class numbers. From the ranks of the scores (Mann & Whitney 1947); ties count half.
    """
    from scipy.stats import rankdata
    areas = []
    for c, column in enumerate(scores.T):
        mine = targets == c
        ours, others = int(mine.sum()), int((~mine).sum())
        if ours and others:
            areas.append((float(rankdata(column)[mine].sum()) - ours * (ours + 1) / 2) / (ours * others))
    return average(areas) if areas else None


def signed_rank(values: Sequence[float]) -> float | None:
    """Two-sided p value of Wilcoxon's signed-rank test that paired differences are as often above as below 0, exact unless
    some are equal; None below six, which cannot be decided at the 5 % level, or if all are 0."""
    if len(values) < 6 or not any(values):
        return None
    from scipy import stats
    return float(stats.wilcoxon(values).pvalue)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Pearson's, Spearman's and Kendall's correlation of two lists of numbers, with p values; empty below three pairs, or
    where one of them is constant."""
    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return {}
    from scipy import stats
    found = {"pearson": stats.pearsonr(first, second), "spearman": stats.spearmanr(first, second),
             "kendall": stats.kendalltau(first, second)}
    measured = {name: {"value": float(one.statistic), "p": float(one.pvalue)} for name, one in found.items()}
    return {"n": len(first), **measured}
