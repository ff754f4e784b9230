"""The workspace: what the command line does, in Python, under one root."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import datastill as ds
import tiny
from datastill.description import load
from datastill.errors import InputError
from datastill.nets import Architecture
from datastill.protocols.dc import DC
from datastill.recipes import read_pools, read_recipe
from datastill.studies import read_study
from datastill.workspace import Workspace
from kit import Call, Told, input_error

CHANGES = ["method.iterations=3", "method.batch_real=8", f"network={tiny.NETWORK}", "protocol.epochs=1", "protocol.augment=none",
           "data.validation=0.1"]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "root", tmp_path, "cpu")


def test_distill_score_report(workspace: Workspace, tmp_path: Path) -> None:
    recipe, told = read_recipe("dm/digits-ipc1", CHANGES), Told()
    folder = workspace.distill(recipe, keep=(2,), progress=told)
    assert folder == workspace.run_folder(recipe.run) == next((tmp_path / "root" / "runs").iterdir())
    assert told.steps == [(1, 3), (2, 3), (3, 3)]
    assert ds.load(folder).card["recipe"] == "dm/digits-ipc1"
    assert workspace.distill(recipe) == folder  # and leaves it alone
    scoring = Told()
    sheet = workspace.score(folder, trials=2, snapshots=True, progress=scoring)
    assert sheet["protocol"]["epochs"] == 1  # the recipe's
    assert sheet["network"] == tiny.NETWORK
    assert sheet["selected"]["of"] == 3
    assert [note for *_, note in scoring.told][:2] == ["synthetic, trial 1"] * 2
    assert scoring.told[-1][2] == "snapshots, synthetic, trial 2"
    for network, one in zip(("mlp", tiny.NETWORK), workspace.evaluations(folder, ["mlp", tiny.NETWORK], DC(epochs=2, augment="none"),
                                                                       split="validation", seed=3), strict=True):
        other = workspace.score(folder, one, trials=1)
        assert (other["network"], other["protocol"]["epochs"], other["split"], other["seed"]) == (network, 2, "validation", 3)
    assert list(workspace.baselines.glob("random-*.json"))
    assert workspace.report([folder]) == folder / "report.html"


@pytest.mark.usefixtures("quick_processes")
def test_students_in_several_processes_give_the_same_sheet(workspace: Workspace, tmp_path: Path, run_cli: Call) -> None:
    folder = workspace.distill(read_recipe("dm/digits-ipc1", CHANGES))
    one = workspace.score(folder, trials=2, out=tmp_path / "one")
    for path in workspace.baselines.iterdir():
        path.unlink()
    told = Told()
    several = workspace.score(folder, trials=2, out=tmp_path / "several", jobs=2, progress=told)
    for subject in ("synthetic", "random"):
        assert [trial["accuracy"] for trial in several[subject]] == [trial["accuracy"] for trial in one[subject]]
    assert (4, 4) in told.steps
    code, text, error = run_cli("evaluate", str(folder), "--trials", "1", "--jobs", "2", "--root", str(tmp_path / "root"))
    assert code == 0, error
    assert "random" in text


def test_images_of_another_place_cannot_be_scored_in_several_processes(workspace: Workspace) -> None:
    folder = workspace.distill(read_recipe("dm/digits-ipc1", CHANGES))
    (evaluation,) = workspace.evaluations(folder)
    other = dataclasses.replace(evaluation, images=evaluation.images.subset(torch.arange(50)))
    with input_error("jobs", "jobs=1"):
        workspace.score(folder, other, trials=2, jobs=2)


def test_a_run_of_your_own(workspace: Workspace) -> None:
    run = tiny.run()
    folder = workspace.distill(run)
    assert ds.load(folder).card["digest"] == run.digest(tiny.splits().train)
    assert "recipe" not in ds.load(folder).card


def test_what_cannot_be_is_said_before_the_work(workspace: Workspace, tmp_path: Path) -> None:
    recipe = read_recipe("dm/digits-ipc1", CHANGES)
    for wrong, says in ((read_recipe("dm/digits-ipc1", [*CHANGES, "ipc=1000"]), "ipc 1000 is more than"),
                        (read_recipe("dm/digits-ipc1", [*CHANGES, "protocol=mtt"]), "learned with a set")):
        with input_error(says):
            workspace.check_recipe(wrong)
        with input_error(says):
            workspace.distill(wrong)
    with input_error("--keep 9: the run has 3 iterations"):
        workspace.distill(recipe, keep=(9,))
    assert not (tmp_path / "root").exists()
    folder = workspace.distill(recipe)
    with input_error("is finished and has no snapshot of iteration 1"):
        workspace.distill(recipe, keep=(1,))
    with input_error("does not fit images of 8x8"):
        workspace.evaluations(folder, ["mlp", "lenet"])
    with input_error("has 2 snapshots"):
        workspace.score(folder, snapshots=True)
    assert not (folder / "scores").exists()
    with input_error("--device quantum"):
        Workspace(device="quantum")


def test_teachers_are_made_where_runs_find_them(workspace: Workspace) -> None:
    pool, told = tiny.run(plugins={"clom": {"pool": tiny.POOL}}).pools()[0], Told()
    teachers = workspace.teach(pool, tiny.run().data, progress=told)
    assert [one.folder for one in teachers] == pool.places(workspace.context(tiny.run().data))
    assert told.steps == [(1, 2), (2, 2)]
    workspace.distill(tiny.run(plugins={"clom": {"pool": tiny.POOL}}), progress=(rest := Told()))
    assert not [note for *_, note in rest.told if "preparing" in note]


def test_tuning_holds_images_out(workspace: Workspace) -> None:
    data = ds.Data(source="digits")
    network = ds.find(ds.Architecture, "mlp")(width=8)
    splits = workspace.tuning_splits(data, [network], 1)
    assert splits.validation is not None
    assert len(splits.validation) == pytest.approx(0.1 * (len(splits.train) + len(splits.validation)), abs=10)
    (tried,) = workspace.tune([DC(epochs=1, augment="none")], network, data, 1, trials=1)
    assert len(tried.accuracies) == 1


def test_tuning_uses_the_validation_images_of_the_data(workspace: Workspace, tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        for label, name in enumerate(("ant", "bee")):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for seed in range(3):
                Image.new("L", (8, 8), 50 * number + 10 * label + seed).save(tmp_path / "set" / split / name / f"{seed}.png")
    splits = workspace.tuning_splits(ds.Data(source="folder", path="set"), [ds.find(ds.Architecture, "mlp")(width=8)], 1)
    assert splits.validation is not None
    assert splits.validation.pixels[:, 0, 0, 0].tolist() == [50, 51, 52, 60, 61, 62]
    assert len(splits.train) == 6


def test_studies_and_plans(workspace: Workspace, tmp_path: Path) -> None:
    changes = dict(one.split("=", 1) for one in CHANGES)
    study = read_study({"question": "Which?", "recipes": {"dm/digits-ipc1": {}}, "seeds": 1, "trials": 1, "changes": {
        **changes, "protocol.epochs": 1, "method.iterations": 3, "method.batch_real": 8, "data.validation": 0.1},
        "arms": {"plain": {}, "fewer": {"method.iterations": 2}}})
    assert workspace.plan(read_recipe("dm/digits-ipc1", CHANGES)).iterations == 3
    assert [one[3] for one in workspace.foresee(study).arms] == [1, 1]
    assert not (tmp_path / "root").exists()
    results = workspace.study(study, "mine")
    assert [row["arm"] for row in results["rows"]] == ["plain", "fewer"]
    assert sorted(path.name for path in workspace.study_folder("mine").iterdir()) == ["index.html", "results.json", "table.md"]
    assert [one[3] for one in workspace.foresee(study).arms] == [0, 0]


def test_a_set_whose_data_moved_is_scored(tmp_path: Path, run_cli: Call) -> None:
    digits = tiny.splits().train
    arrays = {"x_train": digits.pixels[:, 0].numpy(), "y_train": digits.targets.numpy()}
    np.savez(tmp_path / "here.npz", **arrays)
    np.savez(tmp_path / "other.npz", x_train=255 - arrays["x_train"], y_train=arrays["y_train"])
    folder, students = tmp_path / "run", ("--network", "mlp:width=4", "--protocol", "dc:epochs=1", "--trials", "1")
    ds.Workspace(tmp_path, tmp_path).distill(ds.Run(
        method="random", ipc=1, network=tiny.NETWORK, data={"source": "npz", "path": str(tmp_path / "here.npz")}), folder)
    (tmp_path / "here.npz").rename(tmp_path / "there.npz")
    code, _, err = run_cli("evaluate", str(folder), *students)
    assert code == 2
    assert "here.npz" in err
    assert "if the data were moved: --data-path" in err
    assert run_cli("evaluate", str(folder), *students, "--data-path", str(tmp_path / "there.npz"))[0] == 0
    code, _, err = run_cli("evaluate", str(folder), *students, "--data-path", str(tmp_path / "other.npz"))
    assert code == 2
    assert "is not the data" in err


def test_data_that_come_with_a_library_have_no_path(tmp_path: Path) -> None:
    place = ds.Workspace(tmp_path, tmp_path)
    folder = place.distill(tiny.run("coreset"), tmp_path / "run")
    with input_error("--data-path: digits comes with a library and has no path; leave it out"):
        place.load_of(folder, tmp_path)


def test_how_many_networks_an_analysis_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each architecture looks at maps; how hard images are is told by as many as the pool has."""
    seen: list[int] = []

    def stop(pool: Any, *_: Any) -> None:
        seen.append(pool.size)
        raise InputError("seen")

    monkeypatch.setattr(ds.Workspace, "_tellers", lambda self, pool, *_: stop(pool))
    monkeypatch.setattr("datastill.analyzing.check_networks", stop)
    place = ds.Workspace(tmp_path, tmp_path, "cpu")
    for analyse, settings in ((place.difficulty, []), (place.erasing, []), (place.erasing, ["pool.count=3"])):
        with pytest.raises(InputError, match="seen"):
            analyse("digits", ["pool.networks=mlp", *settings])  # type: ignore[operator]
    assert seen == [10, 1, 3]


def test_what_analyses_are_given_is_checked_before_the_work(workspace: Workspace, tmp_path: Path) -> None:
    tiny.distill(tiny.run(), tmp_path / "run")
    pool = [f'pool.networks=["{tiny.NETWORK}","vit:width=8,depth=1,patch=2"]', "pool.epochs=1"]
    for call, says in ((lambda: workspace.meta_features(tmp_path / "run", pool, count=2.5), "count: expected a whole number"),  # type: ignore[arg-type]
                       (lambda: workspace.meta_features(tmp_path / "run", pool, count=-5), "count: expected a whole number, 0 or more"),
                       (lambda: workspace.meta_features(tmp_path / "run", None), "settings: expected a list of assignments"),  # type: ignore[arg-type]
                       (lambda: workspace.meta_features(tmp_path / "run", "pool.count=1"), "settings: expected a list of assignments"),
                       (lambda: workspace.meta_features(tmp_path / "run", ["data.source=mnist"]), "expected a setting of the pool"),
                       (lambda: workspace.judge([tmp_path / "run", tmp_path / "none"], pool), "none"),
                       (lambda: workspace.erasing("digits", pool, threshold=2.0), "threshold")):
        with input_error(says):
            call()
    assert not (tmp_path / "root").exists()


def test_judges_of_several_runs(workspace: Workspace, tmp_path: Path) -> None:
    for seed in (0, 1):
        tiny.distill(tiny.run(seed=seed), tmp_path / str(seed))
    told = Told()
    judged = workspace.judge([tmp_path / "0", tmp_path / "1"], ["pool.networks=mlp:width=8", "pool.epochs=1"], progress=told)
    assert [[one.iteration for one in found] for found in judged] == [[0, 3], [0, 3]]
    assert judged == workspace.judge([tmp_path / "0", tmp_path / "1"], ["pool.networks=mlp:width=8", "pool.epochs=1"])
    shares = [done / of for done, of in told.steps]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_networks_from_files_can_look_too(workspace: Workspace, tmp_path: Path) -> None:
    """Pools without a count, which is one of each by default elsewhere."""
    tiny.distill(tiny.run(), tmp_path / "run")
    networks = [tiny.NETWORK, "vit:width=8,depth=1,patch=2"]
    for number, name in enumerate(networks):
        network = ds.nets.fresh(load(Architecture, name), (1, 8, 8), 10, ds.RNG(number), torch.device("cpu"))  # type: ignore[type-abstract]
        torch.save(network.state_dict(), tmp_path / f"{number}.pt")
    files = [str(tmp_path / f"{number}.pt") for number in range(2)]
    found = workspace.meta_features(tmp_path / "run", [f"pool.networks={json.dumps(networks)}", f"pool.files={json.dumps(files)}",
                                                       "pool.classes=run"], "pretrained", count=20)
    assert len(found.networks) == 2


def test_a_file_says_how_many_networks_of_each(tmp_path: Path) -> None:
    (tmp_path / "pool.toml").write_text('[pool]\nkind = "supervised"\nnetworks = ["mlp"]\ncount = 3\n')
    usual = ("pool.count=1", "pool.seed=1000")
    for given, wanted in (([], (3, 1000)), (["pool.count=2"], (2, 1000)), (["pool.seed=5"], (3, 5)), (["pool=early"], (1, 1000))):
        (pool,), _, _ = read_pools(str(tmp_path / "pool.toml"), given, usual)
        assert (pool.count, pool.seed) == wanted  # type: ignore[attr-defined]
