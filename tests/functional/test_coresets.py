"""Choosing by features: in float64, wherever that is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from datastill.functional import coresets
from datastill.rng import RNG
from kit import input_error


@pytest.mark.parametrize("choose", [coresets.herding, coresets.nearest, coresets.k_center])
def test_distances_are_taken_in_float64_where_the_device_has_it(choose: Callable[[Tensor, int], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    monkeypatch.setattr(coresets, "double", lambda features: (asked.append(features.dtype), features.double())[1])
    features = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    assert len(set(choose(features, 3).tolist())) == 3
    assert asked == [torch.float32]


def test_nearest_are_the_closest_to_the_mean_in_order_and_ties_go_to_the_lowest_index() -> None:
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    distance = [float((row.double() - features.double().mean(0)).norm()) for row in features]
    assert coresets.nearest(features, 7).tolist() == sorted(range(40), key=lambda i: distance[i])[:7]
    assert coresets.nearest(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), 3).tolist() == [0, 1, 2]


def test_nearest_and_herding_begin_alike_and_differ_as_soon_as_the_closest_are_all_on_one_side() -> None:
    features = torch.tensor([[0.9], [1.0], [1.1], [-5.0]])  # mean -0.5
    assert coresets.nearest(features, 3).tolist() == [0, 1, 2]
    assert coresets.herding(features, 3).tolist() == [0, 1, 3]


def test_a_window_of_scores() -> None:
    scores = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    assert coresets.window(scores, 2, 0.0).tolist() == [1, 3]
    assert coresets.window(scores, 2, 1.0).tolist() == [2, 0]
    assert coresets.window(scores, 2, 0.34).tolist() == [3, 4]
    assert coresets.window(scores, 5, 0.7).tolist() == [1, 3, 4, 2, 0]
    assert coresets.window(torch.zeros(4), 2, 0.0).tolist() == [0, 1]


def test_stratified_takes_from_every_range_and_what_small_ones_lack_from_larger_ones() -> None:
    scores = torch.cat([torch.linspace(0, 0.9, 90), torch.tensor([5.5, 7.5]), torch.linspace(9.1, 10, 50)])
    chosen = coresets.stratified(scores, 30, RNG(0), cutoff=0.0, strata=10)
    assert len({*chosen.tolist()}) == 30
    counts = torch.histc(scores[chosen], 10, 0, 10).tolist()
    assert counts == [14, 0, 0, 0, 0, 1, 0, 1, 0, 14]  # 30 // 4 = 7 each, but two have one; the rest is shared
    assert coresets.stratified(scores, 30, RNG(0), cutoff=0.4, strata=10).max() < 90  # the hardest 56 are left out
    assert not torch.equal(chosen, coresets.stratified(scores, 30, RNG(1), cutoff=0.0, strata=10))


def test_stratified_never_leaves_out_what_is_needed() -> None:
    assert sorted(coresets.stratified(torch.arange(5.0), 5, RNG(0), cutoff=0.9).tolist()) == [0, 1, 2, 3, 4]
    assert sorted(coresets.stratified(torch.ones(5), 4, RNG(0)).tolist()) != []
    assert coresets.stratified(torch.arange(9.0), 1, RNG(0)).shape == (1,)


@pytest.mark.parametrize(("call", "says"), [
    (lambda s: coresets.stratified(s, 6, RNG(0)), "a count from 1 to 5"), (lambda s: coresets.stratified(s[:0], 0, RNG(0)), "a count from 1 to 0"),
    (lambda s: coresets.stratified(s, 2, RNG(0), strata=0), "at least one stratum"), (lambda s: coresets.stratified(s, 2, RNG(0), cutoff=2.0), "cutoff from 0"),
    (lambda s: coresets.stratified(s, 2, RNG(0), cutoff=-1.0), "cutoff from 0"), (lambda s: coresets.stratified(s * torch.nan, 2, RNG(0)), "not finite"),
    (lambda s: coresets.window(s, 2, 2.0), "a place from 0"), (lambda s: coresets.window(s, 2, -1.0), "a place from 0"),
    (lambda s: coresets.window(s, 0, 0.5), "a count from 1"), (lambda s: coresets.window(s[:, None], 1, 0.5), "expected scores (N,)"),
    (lambda s: coresets.herding(s, 1), "features (N, D)"), (lambda s: coresets.herding(s[:, None], 6), "a count from 1 to 5"),
    (lambda s: coresets.nearest(s[:, None] / 0, 2), "not finite"), (lambda s: coresets.k_center(s[:, None], -1), "a count from 1")])
def test_what_does_not_fit_is_refused(call: Callable[[Tensor], Tensor], says: str) -> None:
    with input_error(f"{says}"):
        call(torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0]))


def test_k_center_may_begin_anywhere() -> None:
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(2))
    for first in (0, 7, 29):
        found = coresets.k_center(features, 5, first).tolist()
        assert found[0] == first
        assert len(set(found)) == 5
        assert found[1] == int((features - features[first]).norm(dim=1).argmax())
    with input_error("from 0 to 29"):
        coresets.k_center(features, 5, 30)
