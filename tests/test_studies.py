"""The studies that come with the package: all can be read, ask what the paper asks, and are found by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from datastill.digest import digest
from datastill.recipes import recipe_path
from datastill.studies import load_study, read_study, study_names, study_path
from datastill.study import cells
from datastill.tables import read_toml
from kit import input_error

EDITIONS = [(name, edition) for name in study_names() for edition in ("", "small", "paper")]


@pytest.mark.parametrize(("name", "edition"), EDITIONS)
def test_every_run_of_every_edition_can_be_described(name: str, edition: str) -> None:
    study, title = load_study(name, edition)
    found = cells(study)
    assert title == (f"{name}-{edition}" if edition else name)
    assert study.question.endswith("?")
    assert {cell.seed for cell in found} == set(range(study.seeds))
    if study.against:
        assert study.against in study.points()
    if edition == "small":
        assert all(cell.read.run.data.validation for cell in found)  # what is chosen is chosen on validation images
    if edition == "small" and name.startswith("ptm-") and name != "ptm-weights":
        assert study.judges is not None
        used = {(str(n), seed) for cell in found for pool in cell.read.run.pools() for n in pool.networks
                for seed in range(pool.seed, pool.seed + pool.size)}  # type: ignore[attr-defined]
        assert not used & {(str(n), study.judges.seed) for n in study.judges.networks}  # type: ignore[attr-defined]


def test_the_questions_of_the_paper() -> None:
    initializations, _ = load_study("ptm-initializations", "paper")
    assert list(initializations.values().values()) == [1, 2, 5, 10]
    architectures, _ = load_study("ptm-architectures", "paper")
    assert [len(value) for value in architectures.values().values()] == [1, 2, 3, 4]
    epochs, _ = load_study("ptm-epochs", "paper")
    assert list(epochs.values().values()) == [1, 2, 4, 6, 10, 20, 50, 100, 150]
    for name in (name for name in study_names() if name.startswith("ptm-")):
        recipes = load_study(name, "paper")[0].recipes
        assert set(recipes) == {"dm/cifar10-ipc10", "dc/cifar10-ipc10"}
    assert load_study("ptm-weights")[0].split == "validation"


def test_exact_gradients_at_equal_time_are_those_of_the_table() -> None:
    """Small editions share runs, so the longer study is not paid for twice."""
    table, pair = (cells(load_study(name, "small")[0]) for name in ("trajectory", "trajectory-gradient"))
    assert {digest(cell.read.run) for cell in table if cell.read.name == "mtt/cifar10-ipc10"} < {
        digest(cell.read.run) for cell in pair if cell.arm == "exact"}


def test_an_edition_lays_changes_over_and_replaces_the_rest() -> None:
    table = {"question": "Which?", "recipes": {"dm/digits-ipc1": {}}, "arms": {"a": {}, "b": {}}, "changes": {"ipc": 1, "precision": "bfloat16"},
             "editions": {"small": {"arms": {"a": {}}, "changes": {"ipc": 2}}}}
    whole, small = read_study(table), read_study(table, "small")
    assert (list(whole.arms), whole.changes) == (["a", "b"], {"ipc": 1, "precision": "bfloat16"})
    assert (list(small.arms), small.changes) == (["a"], {"ipc": 2, "precision": "bfloat16"})
    with input_error("no edition 'smal'; known: small"):
        read_study(table, "smal")
    for wrong, says in (({"small": 3}, "editions: expected a table for each edition"), ([], "editions: expected a table"),
                        ({"small": {"seedz": 1}}, "editions.small: unknown key 'seedz'")):
        with input_error(says):  # also where another edition is asked for
            read_study({**table, "editions": wrong})


def test_by_name_or_path(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(study_path("ptm-losses").read_text())
    assert load_study(str(path), "small")[1] == "own-small"
    assert read_toml(path)["question"]
    for read, name, noun in ((study_path, "ptm-loses", "study"), (recipe_path, "dm/cifar10-ipc11", "recipe")):
        with input_error(f"unknown {noun} {name!r}, expected a name or the path of a .toml file; did you mean '{name[:-1]}"[:-3]):
            read(name)
        with input_error("no file own2.toml"):
            read("own2.toml")
