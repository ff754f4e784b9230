"""The command lines give exactly the run; the Python runs."""

from pathlib import Path

import pytest
import torch

import datastill as ds
from datastill.data import Images
from datastill.description import load
from datastill.digest import dump
from datastill.recipes import read_recipe
from datastill.report import reproduce
from datastill.rng import RNG

RECIPE = "dm/digits-ipc1"


@pytest.mark.parametrize("given", [
    [], ["seed=3"], ["method.iterations=5", "network.width=16"], ["plugins.total_variation.weight=0.25"],
    ["plugins.total_variation.weight=1.0"], ["network=mlp"], ["method=coreset", "network=mlp:width=8"], ["method.optim.images.lr=2.5", "ipc=2"],
    ["data.source=cifar10", "method.augment=color_crop"]])
def test_changes_lead_to_the_run(given: list[str]) -> None:
    run = read_recipe(RECIPE, given).run
    found = reproduce.changes(RECIPE, run)
    assert found is not None
    assert read_recipe(RECIPE, found).run == run
    assert len(found) <= len(given)


def test_changes_lead_even_to_another_method() -> None:
    other = load(ds.Run, {"method": {"kind": "distribution", "optim": {"images": {"lr": 2.0}}}})
    found = reproduce.changes("random/digits-ipc1", other)
    assert found == ["method=distribution:optim.images.lr=2", "network.width=128", "ipc=10"]
    assert read_recipe("random/digits-ipc1", found).run == other


def test_no_command_shows_a_path() -> None:
    run = read_recipe(RECIPE).run
    local = read_recipe(RECIPE, ["data.path=/home/me/x"]).run
    assert reproduce.changes(RECIPE, local) is None
    lines = reproduce.commands("my run", {"recipe": RECIPE}, local, [])
    assert lines == ["datastill distill 'my run/run.toml' --out 'my run'", "datastill evaluate 'my run'"]
    assert reproduce.commands("r", {"recipe": RECIPE}, run, [])[0] == f"datastill distill {RECIPE} --out r"


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load(ds.Run, {"method": {"kind": "coreset"}, "network": "mlp", "ipc": 1})
    pixels = (RNG(0).uniform(4, 3, 8, 8) * 256).byte()
    ds.distill(run, Images(pixels, torch.arange(4) % 2, ("a", "b"), (0.5,) * 3, (0.25,) * 3), tmp_path / "it's")
    code = reproduce.python("it's", ds.load(tmp_path / "it's"))
    assert "# x (B, 3, 8, 8) normalized, y (B,) class numbers" in code
    monkeypatch.chdir(tmp_path)
    found: dict[str, torch.Tensor] = {}
    exec(code, found)
    assert found["x"].shape == (2, 3, 8, 8)
    assert sorted(found["y"].tolist()) == [0, 1]


def test_a_learned_learning_rate_is_given_in_full() -> None:
    sheet = {"network": "mlp", "protocol": dump(load(ds.Protocol, "mtt:lr=0.010009664110839367,epochs=5")), "split": "test",  # type: ignore[type-abstract]
             "seed": 0, "summary": {"synthetic": {"n": 2}}, "selected": {}}
    (_, line) = reproduce.commands("out", {}, None, [sheet])
    words = line.split()
    assert load(ds.Protocol, words[words.index("--protocol") + 1]) == load(ds.Protocol, sheet["protocol"])  # type: ignore[type-abstract]
    assert words[-1] == "--snapshots"
