"""What the version before wrote (schema 1) is read, and not gone on with.

``golden_schema1/run`` is a folder as it lay there: ``mtt/cifar10-ipc1`` of two iterations on digits, scored by two students.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import datastill as ds
import tiny
from datastill import artifact, sheets
from datastill.description import load
from datastill.nets.convnet import ConvNet
from datastill.recipes import read_recipe
from datastill.run import read_run
from datastill.tables import read_versioned
from kit import Call, input_error

THERE = Path(__file__).parent / "golden_schema1" / "run"
STUDENT = "mlp:width=8"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy, in the folder the command line is called in."""
    return Path(shutil.copytree(THERE, tmp_path / "old"))


def scores(folder: Path) -> list[float]:
    (sheet,) = sheets.read_sheets(folder)
    return [one["accuracy"] for one in sheet["synthetic"]]


def test_the_set_is_read_with_todays_names() -> None:
    assert json.loads((THERE / artifact.CARD).read_text())["schema"] == 1
    old = ds.load(THERE)
    assert (len(old), old.card["schema"], old.card["labels"]) == (10, 2, "hard")
    assert old.lr == old.card["learning_rate"] == json.loads((THERE / artifact.CARD).read_text())["step_size"]
    run = read_run(THERE)
    assert run == ds.Run(**old.card["run"])
    assert (run.data, run.method.optim.inner_lr.lr, run.method.pool.count) == (ds.Data(source="digits"), 1e-6, 2)  # type: ignore[attr-defined, arg-type]
    assert run.method.pool.networks == ()  # type: ignore[attr-defined]  # which then was the usual one, for the run's own
    assert read_versioned(THERE / "run.toml")[1] == 1


def test_it_goes_on_being_scored(folder: Path, run_cli: Call) -> None:
    before, subject = scores(folder), sheets.read_sheets(folder)[0]["subject"]
    code, _, err = run_cli("evaluate", "old", "--network", STUDENT, "--trials", "3")
    assert code == 0, err
    after = scores(folder)
    assert len(list((folder / "scores").glob("*.json"))) == 1  # the same sheet, by its digest
    assert (after[:2], len(after)) == (before, 3)
    (sheet,) = sheets.read_sheets(folder)
    assert (sheet["schema"], sheet["subject"]) == (2, subject)
    (path,) = (folder / "scores").glob("*.json")
    path.write_text(path.read_text().replace('"trial": 0', '"trial": 1'))
    with input_error("damaged or was edited"):  # sealed from now on
        sheets.read_sheets(folder)


def test_it_is_reported_and_exported(folder: Path, run_cli: Call, tmp_path: Path) -> None:
    code, _, err = run_cli("report", "old")
    assert code == 0, err
    page = (folder / "report.html").read_text()
    assert "MTT + total_variation on digits" in page
    assert f"{100 * np.mean(scores(folder)):.1f}" in page
    code, _, err = run_cli("export", "old", "set.npz")
    assert code == 0, err
    assert np.array_equal(np.load(tmp_path / "set.npz")["images"], ds.load(folder).x.numpy())


def test_it_is_scored_from_python(folder: Path, tmp_path: Path) -> None:
    images = ds.Data(source="digits").load(tmp_path)  # type: ignore[arg-type]
    found = ds.score(folder, images.test, networks=STUDENT, trials=2, root=tmp_path)
    assert [one["accuracy"] for one in found[STUDENT]["synthetic"]] == scores(THERE)


def test_it_is_not_distilled_again_where_it_lies(folder: Path, run_cli: Call) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, _, err = run_cli("distill", "old/run.toml", "--out", "old")
    assert code == 2
    said = "old was created by an earlier version (schema 1): it can be scored, reported and exported as it is; to continue " \
           "it or distill again, give old/run.toml as the recipe and another --out"
    assert said in err
    assert not [path for path in before if path.read_bytes() != before[path]]


@pytest.mark.usefixtures("folder")
def test_its_run_file_is_a_recipe(run_cli: Call, tmp_path: Path) -> None:
    recipe = read_recipe("old/run.toml")
    assert recipe.run == read_run(THERE)
    assert recipe.protocol == load(ds.Protocol, "mtt:epochs=100,augment=none")  # type: ignore[type-abstract]
    code, _, err = run_cli("distill", "old/run.toml", "method.iterations=0", "plugins.total_variation.weight=0", "--out", "new")
    assert code == 0, err
    assert torch.equal(ds.load(tmp_path / "new").x, artifact.read_tensors(THERE / "snapshots/000000.safetensors")["images"])
    assert tomllib.loads((tmp_path / "new/run.toml").read_text())["schema"] == 2


def test_another_run_starts_from_it(folder: Path, tmp_path: Path) -> None:
    old = ds.load(folder)
    images = ds.Data(source="digits").load(tmp_path).train  # type: ignore[arg-type]
    new = ds.distill(tiny.method("distribution", iterations=0), images, tmp_path / "new", start_from=str(folder), ipc=1, network=ConvNet(width=4, depth=2))
    assert torch.equal(new.x, old.x)
    assert new.card["started_from"]["digest"] == old.card["digest"]


RECIPE = """ipc = 1
network = "convnet"
data.name = "cifar10"
data.zca = true

[method]
kind = "trajectory"
iterations = 5000
steps = 50
expert_epochs = 2
max_start = 2
lr_net = 0.01
pool = { initialisations = 100 }
optim.images = { lr = 100.0, momentum = 0.5 }
optim.lr = { lr = 1e-07, momentum = 0.5 }

[protocol]
kind = "mtt"
augment = "dsa"
"""  # as it came with the version before, which wrote no schema into recipes
RENAMED = {"data.name": "data.source", "pool = { initialisations": "pool = { count", "optim.lr": "optim.inner_lr"}


def test_a_recipe_of_schema_1_is_read_where_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(f"schema = 1\n{RECIPE}")
    assert read_recipe(str(tmp_path / "recipe.toml")).run == read_recipe("mtt/cifar10-ipc1").run


@pytest.mark.parametrize(("old", "says"), [
    ("data.name", "unknown key 'data.name'; it is now called 'source'"), ("optim.lr", "unknown key 'method.optim.lr'; it is now called 'inner_lr'"),
    ("pool = { initialisations", "unknown key 'method.pool.initialisations'; it is now called 'count'")])
def test_one_that_does_not_is_told_the_new_names(old: str, says: str, tmp_path: Path) -> None:
    text = RECIPE
    for before, now in RENAMED.items():
        text = text.replace(before, now)
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    assert read_recipe(str(path)).run == read_recipe("mtt/cifar10-ipc1").run
    path.write_text(text.replace(RENAMED[old], old))
    with input_error(says):
        read_recipe(str(path))
