"""The page of difficulty: numbers, figures and images are there, and it reads without a run too."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from datastill.analysis.difficulty import Difficulty, Scored
from datastill.report.difficulty import galleries, render, summary

CLASSES = ("cat", "<dog>")


def scored(name: str, count: int, shift: float = 0.0) -> Scored:
    some = np.random.default_rng(count)
    labels = np.arange(count) % 2
    view = torch.from_numpy(some.integers(0, 255, (count, 8, 8, 3), dtype=np.uint8))
    return Scored(name, {"gradn": some.random(count) + shift, "el2n": some.random(count), "misclassified": some.random(count),
                         "forgetting": some.random(count)}, labels, view)


def along() -> Difficulty:
    return Difficulty(CLASSES, ["convnet, seed 0"], scored("real images", 60),
                      {0: scored("iteration 0", 8), 5: scored("iteration 5", 8, 0.5), 9: scored("iteration 9", 8, 1.0)},
                      {0: 2.0, 5: 1.0, 9: 0.5})


def test_of_a_run() -> None:
    page = render(along(), "outputs/<run>")
    assert "outputs/&lt;run&gt;" in page
    assert page.count("<svg") == 9  # four curves, four histograms, a scatter
    assert "compared with 60 real images" in page
    assert "at the network of the run itself" in page
    assert "Easiest and hardest, iteration 9" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_of_a_dataset() -> None:
    found = Difficulty(CLASSES, ["a", "b"], scored("real images", 60), public={"el2n": {"n": 60, "spearman": {"value": -0.5}}},
                       warnings=("the order cannot be checked",))
    page = render(found, "cifar10")
    assert page.count("<svg") == 5
    assert "the given scores" in page
    assert "-0.500" in page
    assert "the order cannot be checked" in page
    assert "&lt;dog&gt;" in page


def test_the_easiest_and_hardest_of_a_class_in_order() -> None:
    some = scored("real images", 40)
    first = galleries(CLASSES, some)[0]
    values = np.sort(some.of_class("gradn", 0))
    assert [text for _, text in first.easiest] == [f"{value:.3g}" for value in values[:6]]
    assert [text for _, text in first.hardest] == [f"{value:.3g}" for value in values[-6:]]
    assert galleries(CLASSES, scored("one", 2)) == []  # nothing to set against each other
    assert len(galleries(CLASSES, scored("few", 6))[0].easiest) == 1


def test_where_a_set_lies_among_real_images() -> None:
    rows = {(row[0], row[1]): row for row in summary(along())}
    name = "gradient norm (GraDN)"
    assert rows[name, "end"][-1] == "100 %" or float(rows[name, "end"][-1].split()[0]) > 90
    assert float(rows[name, "real images"][2]) == pytest.approx(along().real.scores["gradn"].mean(), rel=1e-2)


def test_one_snapshot_has_no_curve(tmp_path: Path) -> None:
    found = Difficulty(CLASSES, ["a"], scored("real images", 60), {0: scored("iteration 0", 8)})
    assert render(found, "coreset").count("<svg") == 5
