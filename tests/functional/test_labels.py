"""Soft labels: the mean over those that are right, written out."""

from __future__ import annotations

import torch

from datastill.functional.labels import mean_of_right
from datastill.rng import RNG


def test_the_mean_over_those_that_are_right() -> None:
    logits, targets = RNG("labels").normal(6, 9, 4), torch.arange(9) % 4
    found = mean_of_right(logits, targets)
    for i in range(9):
        if right := [logits[e, i] for e in range(6) if int(logits[e, i].argmax()) == int(targets[i])]:
            torch.testing.assert_close(found[i], torch.stack(right).mean(0))


def test_where_none_is_right_the_class_is_named_all_the_same() -> None:
    logits = torch.tensor([[[3.0, 1.0, 2.0]], [[5.0, 0.0, 1.0]]])
    assert mean_of_right(logits, torch.tensor([1])).tolist() == [[0.5, 4.0, 1.5]]
    assert mean_of_right(logits, torch.tensor([0])).tolist() == [[4.0, 0.5, 1.5]]
