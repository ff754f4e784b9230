"""Gains from plug-ins: which runs are compared, and what the pairs are."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from datastill.report.guided import gains


def card(seed: int, **fields: Any) -> dict[str, Any]:
    return {"run": {"method": {"kind": "distribution", "iterations": 5}, "network": "mlp", "ipc": 1, "seed": seed, "plugins": {}, **fields},
            "data": {"name": "digits", "fingerprint": "abc"}, "ipc": 1}


def sheet(*accuracies: float, network: str = "mlp", protocol: str = "dc") -> dict[str, Any]:
    return {"network": network, "protocol": {"kind": protocol}, "split": "test", "seed": 0,
            "synthetic": [{"accuracy": a} for a in accuracies]}


CLOM = {"clom": {"kind": "clom", "weight": 1000.0}}


def test_pairs_are_seeds_where_there_are_several() -> None:
    runs = [(card(0), [sheet(0.3, 0.4)]), (card(1), [sheet(0.5, 0.5)]),
            (card(0, plugins=CLOM), [sheet(0.4, 0.5)]), (card(1, plugins=CLOM), [sheet(0.5, 0.52)])]
    (gain,) = gains(runs)
    assert gain.plugins == "clom (weight 1000)"
    assert gain.gain == "+5.5"
    assert gain.pairs == "2 seeds"
    assert gain.without.startswith("42.5")
    assert gain.with_.startswith("48.0")


def test_students_of_one_seed() -> None:
    (gain,) = gains([(card(0), [sheet(0.3, 0.4, 0.5)]), (card(0, plugins=CLOM), [sheet(0.4, 0.5)])])
    assert (gain.gain, gain.pairs) == ("+10.0", "2 students of one seed")


@pytest.mark.parametrize("other", [{"ipc": 2}, {"network": "lenet"}, {"method": {"kind": "distribution", "iterations": 6}}])
def test_runs_that_differ_in_more_are_not_compared(other: dict[str, Any]) -> None:
    assert gains([(card(0, **other), [sheet(0.3)]), (card(0, plugins=CLOM), [sheet(0.4)])]) == []


def test_neither_are_other_data_students_protocols_or_seeds() -> None:
    plain = (card(0), [sheet(0.3)])
    elsewhere = copy.deepcopy(card(0, plugins=CLOM))
    elsewhere["data"]["fingerprint"] = "def"
    for guided in ((elsewhere, [sheet(0.4)]), (card(1, plugins=CLOM), [sheet(0.4)]),
                   (card(0, plugins=CLOM), [sheet(0.4, network="lenet")]), (card(0, plugins=CLOM), [sheet(0.4, protocol="tuned")])):
        assert gains([plain, guided]) == []
    assert gains([(card(0, plugins=CLOM), [sheet(0.4)])]) == []


def test_each_weight_and_student_is_a_row() -> None:
    heavier = {"clom": {"kind": "clom", "weight": 5.0}}
    found = gains([(card(0), [sheet(0.3, 0.3), sheet(0.2, 0.2, network="lenet")]),
                   (card(0, plugins=CLOM), [sheet(0.4, 0.4), sheet(0.1, 0.1, network="lenet")]),
                   (card(0, plugins=heavier), [sheet(0.35, 0.35)])])
    assert [(gain.plugins, gain.student, gain.gain) for gain in found] == [
        ("clom (weight 1000)", "mlp", "+10.0"), ("clom (weight 1000)", "lenet", "−10.0"), ("clom (weight 5)", "mlp", "+5.0")]


def test_a_weight_that_is_a_ratio_of_gradients_says_so() -> None:
    ratio = {"clom": {"kind": "clom", "weight": 1.0, "balance": "gradient"}}
    (gain,) = gains([(card(0), [sheet(0.3, 0.3)]), (card(0, plugins=ratio), [sheet(0.4, 0.4)])])
    assert gain.plugins == "clom (weight 1 of the gradient)"
