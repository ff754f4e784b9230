"""The page and table of a study: the numbers are those of the results, every kind of figure is drawn, verdicts in words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from datastill.report.study import alike, cells, controls, curves, harder, judged, markdown, pictures, render, verdict, write
from datastill.statistics import difference, statistics

ARMS, STUDENTS, SEEDS = ("plain", "few <1>", "many"), ("convnet:width=32", "mlp"), (0, 1, 2)
AXIS = {"few <1>": 1, "many": 10}


def results(figure: str = "bars", against: str = "plain", seeds: int = 3, axis: bool = False) -> dict[str, Any]:
    """Results with known numbers: arm number a, student s, seed i give 0.3 + 0.05 a - 0.1 s + 0.001 i a."""
    rows = []
    for recipe in ("dm/x", "dc/x"):
        for a, arm in enumerate(ARMS):
            for s, student in enumerate(STUDENTS):
                accuracy = [0.3 + 0.05 * a - 0.1 * s + 0.001 * i * a for i in range(seeds)]
                row = {"recipe": recipe, "arm": arm, "student": student, "accuracy": accuracy, "random": [0.25] * seeds,
                       "mean": statistics(accuracy), "gain": statistics([v - 0.25 for v in accuracy]), "flags": []}
                if against and arm != against:
                    row["difference"] = difference([0.05 * a + 0.001 * i * a for i in range(seeds)])
                rows.append(row)
    over = [{"iteration": 0, "cross_entropy": 2.5, "accuracy": 0.1, "gradn": 7.5},
            {"iteration": 9, "cross_entropy": 0.5, "accuracy": 0.9, "gradn": 1.25}]
    teachers = [{"network": "convnet", "seed": 3, "epoch": 12, "digest": "abc", "accuracy": 0.678}]
    runs = [{"recipe": recipe, "arm": arm, "seed": seed, "folder": "f", "run": over, "teachers": teachers if arm != "plain" else [],
             "accuracy": {student: 0.3 for student in STUDENTS}} for recipe in ("dm/x", "dc/x") for arm in ARMS
            for seed in range(seeds)]
    return {"schema": 1, "question": "Do <many> help?", "digest": "d", "against": against, "split": "test", "figure": figure,
            "axes": AXIS if axis else {}, "seeds": list(range(seeds)), "trials": 2, "rows": rows, "runs": runs,
            "correlation": {"dm/x": {"mlp": {"cross_entropy": {"n": 9, **{name: {"value": -0.5, "p": 0.02} for name in (
                "pearson", "spearman", "kendall")}}}}}}


FIGURES = [("bars", False, 2), ("line", True, 2), ("epochs", True, 2), ("heat", False, 2), ("matrix", False, 2), ("line", False, 2)]


@pytest.mark.parametrize(("figure", "axis", "count"), FIGURES)
@pytest.mark.parametrize("against", ["plain", ""])
@pytest.mark.parametrize("seeds", [1, 3])
def test_every_figure_is_drawn(figure: str, axis: bool, count: int, against: str, seeds: int) -> None:
    found = list(pictures(results(figure, against, seeds, axis)))
    assert len(found) == count
    for picture in found:
        ElementTree.fromstring(str(picture.svg))
        assert "nan" not in str(picture.svg).lower().replace("finance", "")


def test_numbers_in_a_heat_map_and_a_matrix() -> None:
    (first, _) = pictures(results("heat"))
    assert "difference from plain" in first.note
    assert {"5.1", "10.2"} <= set(re.findall(r">\s*(-?\d+\.\d)\s*<", str(first.svg)))
    (first, _) = pictures(results("matrix"))
    assert {"30.0", "20.0", "35.1", "40.2"} <= set(re.findall(r">\s*(-?\d+\.\d)\s*<", str(first.svg)))


def test_teachers_accuracy_is_on_a_second_axis() -> None:
    with_, without = (str(next(iter(pictures(results(figure, axis=True)))).svg) for figure in ("epochs", "line"))
    assert "teachers" in with_
    assert "teachers" not in without


def test_the_page_shows_what_the_results_hold() -> None:
    page = render(results())
    assert "Do &lt;many&gt; help?" in page
    assert "<many>" not in page
    assert "few &lt;1&gt;" in page
    for text in ("30.0 ± 0.0", "+5.1", "higher", "67.8", "2.50", "0.50", "-0.50 (Spearman"):
        assert text in page, text
    assert "://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)


def test_markdown() -> None:
    text = markdown(results())
    table = [line for line in text.splitlines() if line.startswith("| dm/x | many | mlp")]
    assert len(table) == 1
    assert "| 30.2 ± 0.2 | 25.0 | +5.2 | +10.2 |" in table[0]
    assert "higher" in table[0]
    alone = markdown(results(against=""))
    assert "verdict" not in alone
    assert "| +5.0 | 5.0 to 5.0 | 30.0, 30.0, 30.0 |" in alone
    assert all(line.count("|") == markdown(results()).splitlines()[2].count("|") for line in text.splitlines()
               if line.startswith("| d") and "plain" in line and "2.50" not in line)


def test_verdicts() -> None:
    assert verdict({"difference": difference([0.01, 0.011, 0.012])}) == "higher"
    assert verdict({"difference": difference([-0.01, -0.011, -0.012])}) == "lower"
    assert re.fullmatch(r"not decided \(\d+ seeds\)", verdict({"difference": difference([0.01, -0.011, 0.012])}))
    assert verdict({"difference": difference([0.01, -0.01])}) == "not decided (needs more seeds than can be run)"
    assert verdict({}) == ""


def test_one_seed_has_no_interval() -> None:
    row = results(seeds=1)["rows"][2]
    assert cells(row)[0] == "35.0"
    assert verdict(row).startswith("not decided")
    render(results(seeds=1))


def test_students_are_put_together() -> None:
    found = results()
    one = {"recipe": "dm/x", "arm": "many", "group": "unseen", "students": list("abcdef"), "accuracy": [0.25, 0.26, 0.27],
           "mean": statistics([0.25, 0.26, 0.27]), "difference": difference([0.01, 0.011, 0.012]), "higher": 5, "p": 0.0625}
    plain = {key: value for key, value in one.items() if key not in ("difference", "higher", "p")} | {"arm": "plain", "group": "all"}
    found["students"] = [plain, one]
    text = markdown(found)
    assert "| dm/x | plain | all 6 | 26.0 ± 1.0 |  |  |  |  |  |  |" in text
    assert "| dm/x | many | 6 unseen | 26.0 ± 1.0 | +1.1 | 0.9 to 1.3 | +1.0, +1.1, +1.2 | higher | 5 of 6 | 0.062 |" in text
    assert "Over kinds of students" in render(found)
    assert "5 of 6" in render(found)
    assert "Over kinds of students" not in render(results())
    alone = results(against="")
    alone["students"] = [plain]
    assert "| dm/x | plain | all 6 | 26.0 ± 1.0 |\n" in markdown(alone)


def test_judges_are_optional() -> None:
    without = results()
    for run in without["runs"]:
        run["run"] = []
    assert judged(without) == []
    assert "Judged by" in render(results())
    assert "Judged by" not in render(without)


def test_how_hard_finished_sets_are_is_compared_in_pairs() -> None:
    found = results()
    for run in found["runs"]:
        factor = {"plain": 1.0, "few <1>": 0.8, "many": 1.1}[run["arm"]]
        last = 2.0 * (1 + 0.1 * run["seed"]) * factor * (1 + (0.01 * run["seed"] if run["arm"] == "few <1>" else 0.2 * (run["seed"] - 1) * (run["arm"] == "many")))
        run["run"] = [{"iteration": 0, "cross_entropy": 1.0, "accuracy": 0.5, "gradn": 3.0},
                      {"iteration": 9, "cross_entropy": 1.0, "accuracy": 0.5, "gradn": last}]
    one, two = harder(found)[:2]
    assert (one.recipe, one.arm, one.verdict, one.by_seed) == ("dm/x", "few <1>", "falls", "−20.0, −19.2, −18.4")
    assert one.change == "−19.2"
    assert (two.arm, two.verdict) == ("many", "not decided")
    assert "| dm/x | few <1> | 1.78 | 2.2 | −19.2 |" in markdown(found)
    assert "Are the finished sets harder?" in render(found)
    drawn = list(curves(found))
    assert [picture.title for picture in drawn] == ["dm/x", "dc/x"]
    ElementTree.fromstring(str(drawn[0].svg))
    assert harder(results(against="")) == []
    for run in found["runs"]:
        run["run"] = [{key: value for key, value in step.items() if key != "gradn"} for step in run["run"]]  # of an earlier version
    assert harder(found) == []
    assert list(curves(found)) == []


def test_what_judges_of_several_architectures_see_alike_is_compared_in_pairs() -> None:
    found = results()
    assert alike(found, "overlap") == alike(found, "common") == []
    assert "overlap" not in render(found) + markdown(found)
    for run in found["runs"]:
        shift = {"plain": 0.0, "few <1>": 0.1 + 0.01 * run["seed"], "many": 0.01 * (run["seed"] - 1)}[run["arm"]]
        run["run"] = [{"iteration": n, "cross_entropy": 1.0, "accuracy": 0.5, "gradn": 3.0, "overlap": overlap, "common": None, "empty": 0.5}
                      for n, overlap in ((0, 0.25), (9, 0.2 + 0.02 * run["seed"] + shift))]
    one, two = alike(found, "overlap")[:2]
    assert one == ("dm/x", "few <1>", "33.0", "22.0", "+11.0", "8.5 to 13.5", "+10.0, +11.0, +12.0", "rises")
    assert (two.arm, two.change, two.verdict) == ("many", "0.0", "not decided")
    assert judged(found)[0][-6:] == ("25.0", "22.0", "", "", "50.0", "50.0")
    assert alike(found, "common") == []  # nobody sees anything
    assert alike(found, "empty")[0][2:5] == ("50.0", "50.0", "0.0")
    assert "| dm/x | few <1> | 33.0 | 22.0 | +11.0 | 8.5 to 13.5 | +10.0, +11.0, +12.0 | rises |" in markdown(found)
    assert "Do other architectures see the same in the finished sets?" in render(found)
    assert "8.5 to 13.5" in render(found)
    for run in found["runs"]:
        run["run"][-1].update(overlap=0.0, common=0.01)  # networks that see nothing alike
    assert alike(found, "overlap")[0].value == "0.0"
    assert alike(found, "common")[0].value == "1.0"
    assert "| overlap where all see something, %, at the end |" in markdown(found)
    assert "overlap where all see something, %" in render(found)


def test_written_files(tmp_path: Path) -> None:
    page = write(json.loads(json.dumps(results())), tmp_path / "new")
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert (tmp_path / "new" / "table.md").read_text() == markdown(results())


def test_flags_are_shown_on_page_and_table() -> None:
    flagged = results()
    flagged["rows"][3]["flags"] = ["no better than guessing"]
    for text in (render(flagged), markdown(flagged)):
        assert "Caution: no better than guessing for at least one seed: dm/x, few" in text
    assert "Caution" not in render(results())
    for row in flagged["rows"]:
        row["flags"] = ["below random real images"]
    assert "Caution: below random real images for at least one seed: all rows\n" in markdown(flagged)


def test_real_images_under_the_same_labels_are_a_table_of_their_own() -> None:
    found = results()
    for row in found["rows"]:
        same = [0.25, 0.26, 0.27] if row["recipe"] == "dm/x" or row["arm"] == "plain" else [0.4, 0.4, 0.4]
        row["controls"] = {"herding": same, "random, hard labels": [0.1, 0.1, 0.1]}
    lines = controls(found)
    assert ("dm/x", "mlp", "images chosen by herding, the same labels", "26.0 ± 1.0", "25.0, 26.0, 27.0", "all arms") in lines
    assert ("dc/x", "mlp", "images chosen by herding, the same labels", "40.0 ± 0.0", "40.0, 40.0, 40.0", "few <1>; many") in lines
    assert len(lines) == 2 * (2 + 3)
    for text in (render(found), markdown(found)):
        assert "random real images, hard labels" in text
    assert controls(results()) == []
    assert "images and labels" not in render(results()) + markdown(results())


def test_a_bar_in_a_name_does_not_break_the_table() -> None:
    odd = results()
    odd["rows"][0]["arm"] = "a|b"
    assert "a\\|b" in markdown(odd)


def test_a_single_arm_is_drawn_by_recipe() -> None:
    found = results(against="")
    rows = [{**row, "recipe": f"recipe{i}", "arm": "run"} for i, row in enumerate(found["rows"]) if row["student"] == "mlp"]
    (picture,) = pictures({**found, "rows": rows})
    assert all(f"recipe{i}" in picture.svg for i, row in enumerate(found["rows"]) if row["student"] == "mlp")
