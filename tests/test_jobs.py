"""Jobs: results in order, errors reach the caller, processes do the same as one after the other."""

from __future__ import annotations

import math

import pytest

from datastill.jobs import carry_out


def test_one_after_the_other() -> None:
    told: list[tuple[int, int]] = []
    assert carry_out(math.sqrt, [1.0, 4.0, 9.0], 1, lambda *at: told.append(at)) == [1.0, 2.0, 3.0]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_processes_give_the_same_in_order() -> None:
    told: list[tuple[int, int]] = []
    assert carry_out(math.sqrt, [1.0, 4.0, 9.0], 2, lambda *at: told.append(at)) == [1.0, 2.0, 3.0]
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_ends_it(jobs: int) -> None:
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        carry_out(math.sqrt, [1.0, -1.0, 4.0], jobs, lambda *at: None)


def test_nothing_to_do() -> None:
    assert carry_out(math.sqrt, [], 2, lambda *at: None) == []
