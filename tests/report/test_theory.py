"""The page of the theory: a figure for each angle and one of differences, the numbers of the curves, well-formed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from datastill.analysis.theory import Curves, curves, gap_map, solve
from datastill.report.theory import pictures, render, rows
from kit import Call, input_error


@pytest.fixture(scope="module")
def found() -> Curves:
    one = curves((0.2, 0.5), (0.0, 20.0), alphas=(0.5, 1.0, 2.0, 4.0, 8.0), trials=2)
    return replace(one, maps={angle: gap_map(angle, (0.2, 0.5), (1.0, 20.0)) for angle in (0.0, 20.0)})


def test_the_curves_are_the_solutions(found: Curves) -> None:
    assert set(found.errors) == {("random", 1.0, 0.0), *((keep, fraction, angle) for keep in ("easy", "hard") for fraction in (0.2, 0.5)
                                                       for angle in (0.0, 20.0))}
    assert found.errors["easy", 0.2, 20.0][1] == solve(5.0, 0.2, "easy", 20.0).error
    assert found.crossings[0.2, 0.0] == pytest.approx(2.07, abs=0.006)
    for key, points in found.simulated.items():
        for alpha, mean, _ in points:
            assert mean == pytest.approx(found.errors[key][found.alphas.index(alpha)], abs=0.04)


def test_the_page_has_a_figure_for_each_angle_and_the_numbers(found: Curves) -> None:
    page = render(found)
    assert [one.title for one in pictures(found)] == ["Test error, a perfect probe", "Test error, probe at 20\N{DEGREE SIGN}", "Hard minus easy",
                                                         *(f"Hard minus easy by samples and fraction, {probe}" for probe in ("a perfect probe", "probe at 20\N{DEGREE SIGN}"))]
    for one in pictures(found):
        ElementTree.fromstring(one.svg)
    assert page.count("<svg") == 5
    table = list(rows(found))
    assert len(table) == 4
    assert table[0][:3] == ("0\N{DEGREE SIGN}", "0.2", "2.07")
    assert all(cell in page for row in table for cell in row)


def test_the_map_has_the_differences_and_the_line_where_they_vanish() -> None:
    drawn = gap_map(0.0, (0.2, 0.5), (1.0, 4.0, 20.0))
    assert drawn.gaps.shape == (2, 3)
    assert drawn.gaps[1, 1] == solve(4.0, 0.5, "hard").error - solve(4.0, 0.5, "easy").error
    assert (drawn.gaps[:, 0] > 0).all()  # few samples: easy ones are better
    assert (drawn.gaps[:, 2] < 0).all()
    assert drawn.crossings == pytest.approx([2.07 / 0.2, 2.52 / 0.5], rel=0.03)
    assert gap_map(0.0, (0.2,), (1.0, 4.0)).crossings == (None,)
    with input_error("alpha_tot"):
        gap_map(0.0, (0.2,), (-1.0,))


def test_the_command(run_cli: Call, tmp_path: Path) -> None:
    code, text, error = run_cli("analyse", "theory", "--fractions", "0.5", "--angles", "0")
    assert (code, text.strip()) == (0, "Theory: theory.html"), error
    assert "When easy samples win" in (tmp_path / "theory.html").read_text()
    assert run_cli("analyse", "theory", "--fractions", "0.5", "--angles", "0")[0] == 0  # its own page is replaced
    (tmp_path / "mine.html").write_text("mine")
    for arguments, says in ((["--out", "mine.html"], "mine.html exists"), (["--out", "x.png"], "x.png"), (["--fractions", "a"], "--fractions"),
                            (["--fractions", "0.5,2"], "fraction: expected a number from 0.001 to 1, got 2"), (["--angles", "90"], "angle"),
                            (["--angles", ""], "empty")):
        code, _, error = run_cli("analyse", "theory", *arguments)
        assert code == 2
        assert says in error
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_nothing_to_show() -> None:
    with input_error("fractions: expected a list of numbers"):
        curves((), (0.0,))
