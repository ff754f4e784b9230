"""Soft labels: the mean over those that are right, written out."""

from __future__ import annotations

import torch

from datastill.functional.labels import mean_of_right
from datastill.rng import RNG


def test_the_mean_over_those_that_are_right() -> None:
    logits, targets = RNG("labels").normal(6, 9, 4), torch.arange(9) % 4
    found = mean_of_right(logits, targets)
    for i in range(9):
        right = [logits[e, i] for e in range(6) if int(logits[e, i].argmax()) == int(targets[i])]
        expected = torch.stack(right).mean(0) if right else logits[:, i].mean(0)
        torch.testing.assert_close(found[i], expected)
