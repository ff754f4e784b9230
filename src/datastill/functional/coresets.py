"""Selecting real examples by their features or by a score, one class at a time. Ties go to the lowest index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datastill.compute import double
from datastill.errors import InputError
from datastill.late import torch
from datastill.tables import shown

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.rng import RNG


def _features(features: Tensor, count: int, what: str) -> Tensor:
    """The features in float64. Raises InputError: not (N, D), not finite, fewer than ``count``."""
    if not isinstance(features, torch.Tensor) or features.dim() != 2 or not features.is_floating_point():
        raise InputError(f"{what}: expected features (N, D) in floating point, got {shown(features)}")
    return _enough(features, count, what)


def _scores(scores: Tensor, count: int, what: str) -> Tensor:
    """The scores in float64. Raises InputError: not (N,), not finite, fewer than ``count``."""
    if not isinstance(scores, torch.Tensor) or scores.dim() != 1:
        raise InputError(f"{what}: expected scores (N,), got {shown(scores)}")
    return _enough(scores, count, what)


def _enough(values: Tensor, count: int, what: str) -> Tensor:
    if not 1 <= count <= len(values):
        raise InputError(f"{what}: expected a count from 1 to {len(values)}, the number of examples, got {shown(count)}")
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"{what}: the values of some examples are not finite")
    return double(values)


def herding(features: Tensor, count: int) -> Tensor:
    """Indices (count,) of the examples whose running mean stays closest to the mean of ``features`` (N, D), in order.

    Each pick minimizes the distance between k + 1 times the mean and the sum of the k chosen features and its own (Welling
    2009; the distance form, which differs from the inner-product form if feature norms differ).
    """
    features = _features(features, count, "herding")
    mean, total = features.mean(0), torch.zeros_like(features[0])
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen = []
    for k in range(count):
        distance = ((k + 1) * mean - total - features).norm(dim=1).masked_fill(~free, torch.inf)
        chosen.append(int(distance.argmin()))
        free[chosen[-1]] = False
        total = total + features[chosen[-1]]
    return torch.tensor(chosen)


def nearest(features: Tensor, count: int) -> Tensor:
    """Indices (count,) of the examples closest to the mean of ``features`` (N, D), the closest first.

    The ``count`` smallest ||f_i - mean(f)||_2. What comparison tables list as herding is this choice, as we found by running
    both (docs/results/published.md); for one example the two are the same.
    """
    features = _features(features, count, "nearest")
    return (features - features.mean(0)).norm(dim=1).argsort(stable=True)[:count].cpu()


def k_center(features: Tensor, count: int, first: int | None = None) -> Tensor:
    """Indices (count,) of examples that cover ``features`` (N, D), in order.

    The first is nearest to the mean, unless its index is given; each following one is farthest from those already chosen
    (the greedy 2-approximation of Gonzalez 1985; Sener & Savarese 2018).
    """
    features = _features(features, count, "k_center")
    if first is not None and not 0 <= first < len(features):
        raise InputError(f"k_center: expected the first example from 0 to {len(features) - 1}, got {shown(first)}")
    chosen = [int((features - features.mean(0)).norm(dim=1).argmin()) if first is None else first]
    nearest = (features - features[chosen[0]]).norm(dim=1)
    for _ in range(count - 1):
        nearest[chosen[-1]] = -1.0  # never chosen twice, even among equal examples
        chosen.append(int(nearest.argmax()))
        distance = (features - features[chosen[-1]]).norm(dim=1)
        nearest = torch.where(nearest < 0, nearest, torch.minimum(nearest, distance))
    return torch.tensor(chosen)


def window(scores: Tensor, count: int, place: float) -> Tensor:
    """Indices (count,) of examples whose scores (N,) follow each other: the ``count`` lowest at ``place`` 0, the highest at
    1, in between those that begin at this share of the way. In order of their scores."""
    if not 0 <= place <= 1:
        raise InputError(f"window: expected a place from 0, the lowest scores, to 1, the highest, got {shown(place)}")
    order = _scores(scores, count, "window").argsort(stable=True).cpu()
    first = round(place * (len(order) - count))
    return order[first:first + count]


def stratified(scores: Tensor, count: int, rng: RNG, cutoff: float = 0.3, strata: int = 50) -> Tensor:
    """Indices (count,) of examples drawn evenly from ranges of their scores (N,): coverage-centric selection (CCS; Zheng et
    al. 2023, ICLR, "Coverage-centric Coreset Selection for High Pruning Rates", algorithm 1).

    The share ``cutoff`` of the highest scores is left out, but never so many that fewer than ``count`` remain. The range of
    the others is cut into ``strata`` of equal width; the stratum with the fewest examples gives its share of what is still
    wanted, or all it has, then the next one. Example::

        rows = stratified(scores, 10, RNG(0))
    """
    if not 0 <= cutoff < 1 or strata < 1:
        raise InputError("stratified: expected a cutoff from 0 to below 1 and at least one stratum, got "
                         f"{shown(cutoff)} and {shown(strata)}")
    scores = _scores(scores, count, "stratified").cpu()
    rest = scores.argsort(stable=True)[:max(count, len(scores) - int(len(scores) * cutoff))]
    low, high = scores[rest[0]], scores[rest[-1]]
    place = ((scores[rest] - low) / (high - low) * strata).long().clamp(max=strata - 1) if high > low else \
        torch.zeros(len(rest), dtype=torch.long)
    groups = [(number, rest[place == number]) for number in place.unique().tolist()]
    groups.sort(key=lambda group: len(group[1]))  # stable: of equal sizes, the lower scores first
    chosen: list[Tensor] = []
    wanted = count
    for done, (number, group) in enumerate(groups):
        taken = min(len(group), wanted // (len(groups) - done))
        chosen.append(group[rng(number).permutation(len(group))[:taken]])
        wanted -= taken
    return torch.cat(chosen)
