"""Distances, against their closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datastill.functional.distances import class_means, gradient_distance, mean_feature_distance
from datastill.rng import RNG
from kit import quick


def one_hot(targets: list[int], classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(targets), classes).float()


@quick
@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.integers(0, 9))
def test_class_means_of_hard_labels_are_means_by_class(targets: list[int], seed: int) -> None:
    features = RNG(seed).normal(len(targets), 4)
    means = class_means(features, one_hot(targets, 3))
    for label in range(3):
        rows = [i for i, target in enumerate(targets) if target == label]
        if rows:
            torch.testing.assert_close(means[label], features[rows].mean(0))
        else:
            assert means[label].isnan().all()


def test_soft_labels_weigh_each_sample_in_each_class() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    y = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    torch.testing.assert_close(class_means(features, y), torch.tensor([[0.75, 0.5], [0.25, 1.5]]))


@quick
@given(st.integers(0, 99), st.permutations(range(6)))
def test_class_means_do_not_depend_on_the_order(seed: int, order: list[int]) -> None:
    features, y = RNG(seed).normal(6, 3), RNG(seed, "y").uniform(6, 2)
    torch.testing.assert_close(class_means(features[order], y[order]), class_means(features, y))


def test_class_means_move_with_the_features() -> None:
    features, y = RNG(0).normal(6, 3), one_hot([0, 1, 0, 1, 1, 0], 2)
    torch.testing.assert_close(class_means(2 * features + 5, y), 2 * class_means(features, y) + 5)


@pytest.mark.parametrize(("synthetic", "distance"), [
    ([[1.0, 2.0], [3.0, 4.0]], 0.0), ([[1.0, 2.0], [3.0, 6.0]], 4.0), ([[0.0, 0.0], [0.0, 0.0]], 30.0)])
def test_the_distance_is_a_sum_of_squares_over_classes(synthetic: list[list[float]], distance: float) -> None:
    real = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert mean_feature_distance(real, torch.tensor(synthetic)).item() == distance
    assert mean_feature_distance(torch.tensor(synthetic), real).item() == distance


def test_gradients_of_means_and_distance() -> None:
    real, y = RNG(1).normal(2, 3).double(), RNG(2).uniform(5, 2).double().requires_grad_()
    features = RNG(0).normal(5, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda f, y: mean_feature_distance(real, class_means(f, y)), (features, y))


def test_means_over_rows_of_a_vector_are_its_numbers() -> None:
    """A bias has an output row for each number, in IDC as here."""
    a, b = RNG("a").normal(6), RNG("b").normal(6)
    torch.testing.assert_close(gradient_distance([a], [b], "l1_mean"), (a - b).abs().sum())
    torch.testing.assert_close(gradient_distance([a.view(2, 3)], [b.view(2, 3)], "l1_mean"), (a - b).abs().sum() / 3)
