"""Studies: what they run, how they compare, what they keep, and that a killed one ends as an unbroken one."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from children import Child, command
from datastill.description import load
from datastill.digest import to_toml
from datastill.errors import Stopped
from datastill.nets.mlp import MLP
from datastill.place import Place
from datastill.studies import read_study
from datastill.study import Study, cells
from datastill.study_run import Foreseen, _beside, foresee, run_study
from datastill.tables import read_toml
from kit import Told, input_error

RECIPE = "dm/digits-ipc1"
USUAL = {"method.iterations": 4, "method.batch_real": 8, "network": tiny.NETWORK, "data.validation": 0.1,
         "protocol.epochs": 1, "protocol.augment": "none", "plugins.clom.pool": tiny.POOL, "plugins.cclom.pool": tiny.POOL,
         "plugins.cclom.batch_real": 32}


def study(**fields: Any) -> Study:
    return read_study({"question": "Which?", "recipes": {RECIPE: {}}, "changes": USUAL, "seeds": 2, "trials": 2,
                       "against": "plain", "arms": {"plain": {}, "clom": {"plugins.clom.weight": 1.0}}, **fields})


def place(root: Path) -> Place:
    return Place(root, root, "cpu")


def content(root: Path) -> dict[str, bytes]:
    """What a study leaves, without what tells the time or the order of things."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*"))
            if (p.is_file() and p.suffix in (".safetensors", ".npy", ".toml")) or p.name == "results.json"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A study carried out in one go."""
    root = tmp_path_factory.mktemp("whole")
    judges = {**tiny.POOL, "seed": 50, "count": 1}
    return root, run_study(study(judges=judges, students=[tiny.NETWORK, "mlp:width=8"]), place(root), root / "results")


# --- what is run -------------------------------------------------------------------------------------------------------


def test_changes_for_some_recipes_only() -> None:
    recipes = {RECIPE: {}, "dm/digits-ipc10": {"method.batch_real": 5}, "random/digits-ipc1": {}}
    changes = {key: value for key, value in USUAL.items() if not key.startswith("method.")}
    one = study(recipes=recipes, changes=changes, arms={"plain": {}}, seeds=1, changes_for={
        "dm/*": {"method": {"iterations": 7, "batch_real": 6}}, "*-ipc10, dm/*-ipc10": {"method.iterations": 9}})
    found = {cell.recipe: cell.read.run.method for cell in cells(one)}
    assert [(m.iterations, m.batch_real) for m in (found[RECIPE], found["dm/digits-ipc10"])] == [(7, 6), (9, 5)]  # type: ignore[attr-defined]
    assert found["random/digits-ipc1"].iterations == 0
    for patterns in ("mtt/*", "dm/*, mtt/*"):
        with input_error("changes_for: the pattern 'mtt/*' matches no recipe of the study (dm/digits-ipc1, "):
            study(recipes=recipes, changes=changes, changes_for={patterns: {"ipc": 1}})
    with input_error("changes_for.dm/*.seed: a study sets the seed itself"):
        study(changes_for={"dm/*": {"seed": 1}})
    with input_error("changes_for.dm/*.plugins.sdc", "weight"):  # also where no arm names the plug-in
        study(changes_for={"dm/*": {"plugins.sdc.weight": -1}})


def test_arms_then_every_combination_of_the_axes() -> None:
    one = study(axes={"plugins.clom.weight": [1, 10], "plugins.clom.pool.count": [1, 2]},
                along={"plugins.clom.draw": "mean"}, arms={"plain": {}})
    assert list(one.points()) == ["plain", "weight 1, count 1", "weight 1, count 2",
                                  "weight 10, count 1", "weight 10, count 2"]
    assert list(one.values().values()) == [1, 1, 10, 10]
    found = cells(one)
    assert len(found) == 10
    run = next(c.read.run for c in found if c.arm == "weight 10, count 2" and c.seed == 1)
    assert (run.seed, run.plugins[0].weight, run.pools()[0].size) == (1, 10.0, 2)
    assert run.plugins[0].draw == "mean"  # type: ignore[attr-defined]
    assert found[0].read.run.plugins == ()


def test_settings_of_a_plugin_count_only_where_it_is_named() -> None:
    found = {c.arm: c.read.run for c in cells(study())}
    assert found["plain"].plugins == ()
    assert [type(p).__name__ for p in found["clom"].plugins] == ["CLoM"]
    assert found["clom"].pools()[0].size == 2


def test_nested_tables_are_dotted_keys() -> None:
    flat, nested = study(), study(arms={"plain": {}, "clom": {"plugins": {"clom": {"weight": 1.0}}}})
    assert flat == nested


def test_recipes_have_changes_of_their_own() -> None:
    both = study(recipes={RECIPE: {"ipc": 2, "plugins.clom.weight": 7.0}, "dm/mnist-ipc1": {}},
                 arms={"plain": {}, "clom": {"plugins.clom.draw": "one"}})
    assert {(c.recipe, c.read.run.ipc) for c in cells(both)} == {(RECIPE, 2), ("dm/mnist-ipc1", 1)}
    assert {c.read.run.plugins[0].weight for c in cells(both) if c.read.run.plugins} == {7.0, 1000.0}


@pytest.mark.parametrize(("fields", "parts"), [
    ({"axes": {"plugins.clom.nothing": [1]}}, ["arm 'nothing 1'", "plugins.clom.nothing", "known:"]),
    ({"axes": {"method.iterations": 5}}, ["axes.method.iterations: expected a list of the values to try, got 5"]),
    ({"axes": {"method.iterations": []}}, ["axes.method.iterations", "expected a list"]),
    ({"axes": {"methods.iterations": [1]}}, ["methods"]),
    ({"axes": {"method.iterations": ["many"]}}, ["arm 'iterations many'", "method.iterations"]),
    ({"against": "plane"}, ["against: no arm 'plane'; known: plain, clom"]),
    ({"arms": {}, "against": ""}, ["nothing to compare; give it arms or axes"]),
    ({"recipes": {}}, ["recipes"]),
    ({"recipes": {"dm/digits-ipc7": {}}}, ["unknown recipe 'dm/digits-ipc7'"]),
    ({"seeds": 0}, ["seeds"]),
    ({"arms": {"plain": {}, "clom": "x"}}, ["arms.clom", "dictionary"]),
    ({"arms": "x"}, ["arms"]),
    ({"axes": {"method.iterations": [2, 2]}}, ["two arms are called 'iterations 2'"]),
    ({"axes": {"method.iterations": [2]}, "arms": {"plain": {}, "iterations 2": {}}}, ["two arms are called 'iterations 2'"]),
    ({"changes": {**USUAL, "seed": 3}}, ["changes.seed: a study sets the seed itself"]),
    ({"axes": {"seed": [1, 2]}}, ["axes.seed: a study sets the seed itself"]),
    ({"changes": {**USUAL, "plugins.nosuch.weight": 3}}, ["changes.plugins.nosuch", "unknown plug-in 'nosuch'"]),
    ({"changes": {**USUAL, "plugins.total_variation.wieght": 3}}, ["wieght", "did you mean 'weight'"]),
    ({"figure": "pie"}, ["figure"]),
    ({"color": "red"}, ["unknown key 'color'", "known:"]),
    ({"arms": {"plain": {}, "odd": {"plugins.clom.pool.epoch": 7}}}, ["arm 'odd'", "epoch 7 is never stored"]),
])
def test_a_study_that_cannot_be(fields: dict[str, Any], parts: list[str]) -> None:
    with input_error(*parts):
        cells(study(**fields))


def test_networks_that_differ_in_width_alone_are_told_apart() -> None:
    one = study(axes={"plugins.clom.pool.networks": [["convnet:width=4,depth=2"], ["convnet:width=8,depth=2"]]})
    assert list(one.points())[2:] == ["networks convnet:width=4,depth=2", "networks convnet:width=8,depth=2"]
    assert len(one.values()) == 2


def test_judges_must_know_the_classes_and_take_no_part(tmp_path: Path) -> None:
    few = tmp_path / "few.npz"
    np.savez(few, x_train=np.zeros((40, 8, 8, 1), np.uint8), y_train=np.arange(40) % 2)
    for judges, says in (({**tiny.POOL, "data": {"source": "npz", "path": str(few)}}, "class '2' is not among the 2 classes it knows"),
                         (tiny.POOL, "also guides the run")):
        with input_error("judges", says):
            run_study(study(judges=judges), place(tmp_path / "root"), tmp_path / "results")
    assert not (tmp_path / "root").exists()


def test_teachers_are_foreseen_once_with_the_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datastill.teachers._trained._epoch_seconds", lambda *given: 1.0)
    slow = {**tiny.POOL, "epochs": 2000, "count": 1}
    usual = {**USUAL, "plugins.clom.pool": slow}
    one = foresee(study(changes=usual), place(tmp_path)).teachers
    several = foresee(study(changes=usual, axes={"plugins.clom.pool.epoch": [1, 2, 4, 6, 10, 20]}), place(tmp_path)).teachers
    judged = foresee(study(changes=usual, judges={**slow, "seed": 50, "count": 4}), place(tmp_path)).teachers
    assert (one, several, judged) == (2000.0, 2000.0, 10_000.0)


def test_nothing_is_begun_where_an_arm_does_not_fit(tmp_path: Path) -> None:
    wrong = study(arms={"plain": {}, "too many": {"ipc": 100_000}})
    with input_error("arm 'too many' of dm/digits-ipc1", "ipc 100000 is more than"):
        run_study(wrong, place(tmp_path), tmp_path / "results")
    with input_error("does not fit"):
        run_study(study(students=["convnet:depth=6"]), place(tmp_path), tmp_path / "results")
    with input_error("split is validation, but no images are held out"):
        run_study(study(split="validation", changes={**USUAL, "data.validation": 0.0}), place(tmp_path), tmp_path / "results")
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "teachers").exists()
    assert not (tmp_path / "results").exists()


# --- what comes of it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["results", "baselines"])
def test_nothing_is_begun_where_results_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with input_error(f"cannot write to {tmp_path / name}", "choose another folder"):
        run_study(study(), place(tmp_path), tmp_path / "results")
    assert not (tmp_path / "runs").exists()


def test_results(whole: tuple[Path, dict[str, Any]]) -> None:
    root, results = whole
    assert json.loads((root / "results" / "results.json").read_text()) == json.loads(json.dumps(results))
    assert [(row["arm"], row["student"]) for row in results["rows"]] == [
        ("plain", tiny.NETWORK), ("plain", "mlp:width=8"), ("clom", tiny.NETWORK), ("clom", "mlp:width=8")]
    plain, guided = results["rows"][0], results["rows"][2]
    pairs = [a - b for a, b in zip(guided["accuracy"], plain["accuracy"], strict=True)]
    assert guided["difference"]["values"] == pytest.approx(pairs)
    assert guided["difference"]["mean"] == pytest.approx(sum(pairs) / 2)
    assert "difference" not in plain
    assert plain["random"] == guided["random"]
    assert len(list((root / "runs").iterdir())) == 4
    assert len(list((root / "teachers").iterdir())) == 3
    assert all([one["iteration"] for one in run["run"]] == [0, 1, 2, 3, 4] for run in results["runs"])
    assert [len(run["teachers"]) for run in results["runs"]] == [0, 0, 2, 2]
    assert results["correlation"][RECIPE]["mlp:width=8"]["cross_entropy"]["n"] == 4
    groups = {(one["arm"], one["group"]): one for one in results["students"]}
    assert {key: one["students"] for key, one in groups.items()} == {
        (arm, group): names for arm in ("plain", "clom") for group, names in
        {"all": [tiny.NETWORK, "mlp:width=8"], "seen": [tiny.NETWORK], "unseen": ["mlp:width=8"]}.items()}
    together = groups["clom", "all"]
    own = [row["accuracy"] for row in results["rows"][2:]]
    assert together["accuracy"] == pytest.approx([sum(pair) / 2 for pair in zip(*own, strict=True)])
    assert together["difference"]["values"] == pytest.approx(
        [a - b for a, b in zip(together["accuracy"], groups["plain", "all"]["accuracy"], strict=True)])
    assert together["higher"] == sum(row["difference"]["mean"] > 0 for row in results["rows"][2:])
    assert together["p"] is None


def test_a_second_time_nothing_is_run(whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch,
                                      tmp_path: Path) -> None:
    root, results = whole
    before = content(root)
    monkeypatch.setattr("datastill.loop.Loop.advance", None)
    monkeypatch.setattr("datastill.train.fit", None)
    judges = {**tiny.POOL, "seed": 50, "count": 1}
    again = run_study(study(judges=judges, students=[tiny.NETWORK, "mlp:width=8"]), place(root), tmp_path)
    assert again == results
    assert {name: file for name, file in content(root).items() if name in before} == before


def test_runs_are_shared_between_studies_and_only_what_is_missing_is_run(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, results = whole
    wider = study(arms={"plain": {}, "the same by another name": {"plugins.clom.weight": 1.0},
                        "heavier": {"plugins.clom.weight": 5.0}}, students=["mlp:width=8"])
    missing = {arm: (runs, students) for _, arm, _, runs, students, _ in foresee(wider, place(root)).arms}
    assert missing == {"plain": (0, 0), "the same by another name": (0, 0), "heavier": (2, 4)}
    more = foresee(wider.model_copy(update={"students": (MLP(width=9),), "trials": 3}), place(root)).arms
    assert [one[3:5] for one in more] == [(0, 6), (0, 6), (2, 6)]  # runs that are there still lack these students
    more = run_study(wider, place(root), tmp_path)
    assert len(list((root / "runs").iterdir())) == 6
    same = next(row for row in more["rows"] if row["arm"] == "the same by another name")
    assert same["accuracy"] == results["rows"][3]["accuracy"]


@pytest.mark.usefixtures("quick_processes")
def test_two_at_once_find_the_same(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    judges = {**tiny.POOL, "seed": 50, "count": 1}
    told = Told()
    parallel = run_study(study(judges=judges, students=[tiny.NETWORK, "mlp:width=8"]), place(tmp_path), tmp_path / "results",
                         executor=place(tmp_path).executor(2), progress=told)
    assert parallel == whole[1]
    assert told.told[0] == (0, 1, "check")
    assert told.told[-1] == (4, 4, "runs")


def test_stopped_in_the_middle_of_a_run_and_carried_on(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    some, where = study(judges={**tiny.POOL, "seed": 50, "count": 1}, students=[tiny.NETWORK, "mlp:width=8"]), place(tmp_path)
    with pytest.raises(Stopped, match=r"stopped at iteration [1-3] of 4; run the same command to continue"):
        run_study(some, where, tmp_path / "results", progress=Told(stop_at_check=3))
    assert run_study(some, where, tmp_path / "results") == whole[1]


def test_killed_inside_and_carried_on(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """kill -9 at several moments: in teachers, runs, students."""
    root = tmp_path / "root"
    judges = {**tiny.POOL, "seed": 50, "count": 1}
    (tmp_path / "one.toml").write_text(to_toml(study(judges=judges, students=[tiny.NETWORK, "mlp:width=8"])))
    line = ("study", "one.toml", "--root", "root", "--data-root", "root")
    for until in ("teachers/*/snapshots.npy", "runs/*/snapshots/000000.safetensors", "baselines/*"):
        child = Child(command, tmp_path, *line)
        for _ in range(6000):
            if list(root.glob(until)) or not child.process.is_alive():
                break
            time.sleep(0.01)
        assert child.kill() == -signal.SIGKILL
    assert not (root / "studies/one/results.json").exists()
    assert Child(command, tmp_path, *line).wait() == 0, (tmp_path / "said").read_text()
    assert json.loads((root / "studies/one/results.json").read_text()) == json.loads(json.dumps(whole[1]))
    mine, theirs = content(root), content(whole[0])
    assert {name: value for name, value in mine.items() if name.startswith(("runs/", "teachers/"))}.items() <= theirs.items()


def test_foreseen_without_writing(tmp_path: Path) -> None:
    foreseen = foresee(study(), place(tmp_path))
    assert [one[1:5] for one in foreseen.arms] == [("plain", 2, 2, 4), ("clom", 2, 2, 4)]
    assert all(seconds > 0 for *_, seconds in foreseen.arms)
    assert foreseen.teachers > 0
    assert list(tmp_path.iterdir()) == []


def test_students_of_real_images_are_foreseen_once() -> None:
    """Arms under the same labels share random real images and the controls; others need their own."""
    def beside(controls: bool, **arms: Any) -> list[int]:
        one, known = study(recipes={"sre2l/cifar10-ipc10": {}}, changes={}, controls=controls, against="", arms=arms), set[str]()
        return [_beside(one, cell, known) for cell in cells(one) if cell.seed == 0]

    weights: dict[str, Any] = {"one": {"method.weight": 0.1}, "two": {"method.weight": 1.0}}
    assert beside(False, **weights) == [1, 0]
    assert beside(True, **weights) == [9, 0]
    assert beside(True, **weights, other={"protocol.temperature": 4.0}, hard={"protocol.labels": "hard"}) == [9, 0, 9, 1]


def test_a_study_is_estimated_early_and_its_progress_told(tmp_path: Path) -> None:
    first, progress = list[Foreseen](), Told()
    foreseen = foresee(study(), place(tmp_path), progress, first.append)
    assert [[one[:5] for one in rough.arms] for rough in first] == [[one[:5] for one in foreseen.arms]]
    assert first[0].runs_and_students > 0
    assert {note.partition(",")[0] for _, _, note in progress.told} == {"check", "dm/digits-ipc1 plain", "dm/digits-ipc1 clom", "teachers"}



def test_round_trip(tmp_path: Path) -> None:
    one = study(axes={"plugins.clom.pool.networks": [["mlp"], ["mlp", tiny.NETWORK]]}, judges=tiny.POOL)
    (tmp_path / "one.toml").write_text(to_toml(one))
    assert load(Study, read_toml(tmp_path / "one.toml")) == one
