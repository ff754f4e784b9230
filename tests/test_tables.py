"""Settings as tables: typed, overridden by dotted keys, read from TOML."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from datastill.core import Group
from datastill.description import load
from datastill.methods.distribution import DistributionMatching
from datastill.nets.convnet import ConvNet
from datastill.plugins.total_variation import TotalVariation
from datastill.run import Run
from datastill.tables import nearest, override, parse_spec, parse_value, read_toml, read_versioned, shown, upgraded
from kit import input_error


def test_nearest_lists_all_where_none_is_near() -> None:
    assert nearest("xyz", ["lion", "cat"]) == "; known: lion, cat"
    assert nearest("xyz", []) == "; known: none"


@pytest.mark.parametrize(("text", "table"), [
    ("convnet", {"kind": "convnet"}),
    ("convnet:width=32,norm=batch", {"kind": "convnet", "width": 32, "norm": "batch"}),
    ("convnet: width = 32 , norm = batch", {"kind": "convnet", "width": 32, "norm": "batch"}),
    ("package.module:Class", {"kind": "package.module:Class"}),
    ("package.module:Class:width=3", {"kind": "package.module:Class", "width": 3}),
])
def test_parse_spec(text: str, table: dict[str, Any]) -> None:
    assert parse_spec(text) == table


@pytest.mark.parametrize("text", ["convnet:width=32,norm", "convnet:width=32,", "convnet:=3,width=2"])
def test_a_malformed_spec_is_explained(text: str) -> None:
    with input_error(repr(text), "name:option=value"):
        parse_spec(text)


@pytest.mark.parametrize(("text", "value"), [
    ("3", 3), ("3.0", 3.0), ("1e-3", 0.001), ("true", True), ('"3"', "3"), ("batch", "batch"), ("[1, 2]", [1, 2]),
    ("{a = 1}", {"a": 1}), ("", ""), ("a b", "a b"), ("torchvision:resnet18", "torchvision:resnet18")])
def test_values_are_of_their_toml_type(text: str, value: object) -> None:
    got = parse_value(text)
    assert got == value
    assert type(got) is type(value)


def test_overrides_reach_into_tables_that_are_not_there_yet() -> None:
    table = {"method": {"kind": "distribution"}, "ipc": 1}
    got = override(table, ["ipc=10", "method.iterations=5", "plugins.total_variation.weight=0.5", "data.source=mnist"])
    run = load(Run, got)
    assert (run.ipc, run.method.iterations, run.data.name) == (10, 5, "mnist")
    assert run.plugins == (TotalVariation(weight=0.5),)
    assert table == {"method": {"kind": "distribution"}, "ipc": 1}


def test_overrides_reach_into_a_spec() -> None:
    table = {"method": "distribution", "network": "convnet:width=32,depth=2"}
    run = load(Run, override(table, ["network.width=64", "method.batch_real=7"]))
    assert run.network == ConvNet(width=64, depth=2)
    assert run.method == DistributionMatching(batch_real=7)


def test_an_override_replaces_whole_tables() -> None:
    run = load(Run, override({"method": "coreset", "network": "mlp"}, ["network=convnet:width=3", "ipc=3"]))
    assert (run.network, run.ipc) == (ConvNet(width=3), 3)


@pytest.mark.parametrize("twice", [["ipc=2", "ipc=3"], ["ipc=2", " ipc = 2"], ["method.iterations=1", "seed=1", "method.iterations=2"]])
def test_a_key_given_twice_is_refused(twice: list[str]) -> None:
    with input_error(twice[0].partition("=")[0], "given twice"):
        override({"method": "distribution"}, twice)


def test_an_override_of_one_nested_field_keeps_the_defaults_beside_it() -> None:
    run = load(Run, override({"method": "distribution"}, ["method.optim.images.momentum=0.9"]))
    assert run.method.optim.images == Group(lr=DistributionMatching().optim.images.lr, momentum=0.9)


@pytest.mark.parametrize("assignment", ["ipc", "=3", "a..b=1", ".ipc=1", "", ".".join(["a"] * 999) + "=1"])
def test_a_malformed_override_is_explained(assignment: str) -> None:
    with input_error("expected key=value", repr(assignment)[:60]):
        override({}, [assignment])


@pytest.mark.parametrize(("table", "assignment"), [({"ipc": 3}, "ipc.x=1"), ({"plugins": []}, "plugins.x.weight=1")])
def test_nothing_is_set_inside_a_value(table: dict[str, Any], assignment: str) -> None:
    with input_error(assignment, "not a table"):
        override(table, [assignment])


def test_any_toml_table_can_be_overridden() -> None:
    table = tomllib.loads("seed = 2024-01-02\nipc = 1")
    assert override(table, ["ipc=3"]) == {"seed": date(2024, 1, 2), "ipc": 3}
    with input_error("seed", "2024"):
        load(Run, {"method": "coreset", **table})


@pytest.mark.parametrize(("content", "parts"), [
    (b"ipc = =", ("cannot be read as TOML", "line 1")),
    (b"\xff\xfe", ("cannot be read as TOML",)),
    (b"schema = 99", ("schema 99", "reads 1")),
    (b"[method]\nstart = 1979-05-27", ("method.start", "expected finite numbers, valid text, true or false, lists and tables", "got datetime.date(1979, 5, 27)")),
    (b"a = [1, {b = 12:00:00}]", ("a: ", "datetime.time(12, 0)")),
    (b"ipc = " + 5000 * b"9", ("cannot be read as TOML", "4300")),
    (b".".join([b"a"] * 3000) + b" = 1", ("nested more than 50 deep",)),
    (None, ("no file",)),
])
def test_an_unreadable_toml_file_is_named(tmp_path: Path, content: bytes | None, parts: tuple[str, ...]) -> None:
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with input_error(str(path), *parts):
        read_toml(path)


def test_a_number_too_long_to_read_is_text_and_shown_in_part() -> None:
    assert parse_value("9" * 5000) == "9" * 5000
    assert shown(10**5000) == "a value of type int"


def test_a_folder_is_no_toml_file(tmp_path: Path) -> None:
    with input_error(str(tmp_path)):
        read_toml(tmp_path)


@pytest.mark.parametrize(("old", "now"), [
    ({"data": {"name": "digits", "size": 8}}, {"data": {"source": "digits", "size": 8}}),
    ({"method": {"optim": {"lr": {"lr": 1.0}, "images": {"lr": 2.0}}}}, {"method": {"optim": {"inner_lr": {"lr": 1.0}, "images": {"lr": 2.0}}}}),
    ({"plugins": {"clom": {"pool": {"initialisations": 3, "data": {"name": "mnist"}}}}}, {"plugins": {"clom": {"pool": {"count": 3, "data": {"source": "mnist"}}}}}),
    ({"plugins": {"mine": {"kind": "a:B", "optimiser": "adam"}}}, {"plugins": {"mine": {"kind": "a:B", "optimizer": "adam"}}}),
    ({"method": {"kind": "trajectory", "pool": {"networks": ["convnet"]}}}, {"method": {"kind": "trajectory", "pool": {"networks": []}}}),
    ({"method": {"kind": "trajectory", "pool": {"networks": ["mlp"]}}}, {"method": {"kind": "trajectory", "pool": {"networks": ["mlp"]}}}),
    ({"method": {"kind": "trajectory", "pool": {"networks": [{"kind": "convnet", "width": 64}]}}}, {"method": {"kind": "trajectory", "pool": {"networks": [{"kind": "convnet", "width": 64}]}}}),
    ({"plugins": {"clom": {"pool": {"networks": ["convnet"]}}}}, {"plugins": {"clom": {"pool": {"networks": ["convnet"]}}}}),
])
def test_tables_of_schema_1_get_todays_names(old: dict[str, Any], now: dict[str, Any], tmp_path: Path) -> None:
    assert upgraded(old) == now
    assert upgraded(now) == now
    for schema, read in ((1, now), (2, old)):
        (tmp_path / "a.toml").write_text(tomli_w.dumps({"schema": schema, **old}))
        assert read_versioned(tmp_path / "a.toml") == (read, schema)
    (tmp_path / "a.toml").write_text(tomli_w.dumps(old))
    assert read_toml(tmp_path / "a.toml") == old  # which says nothing: of today


@pytest.mark.parametrize("schema", ["0", "3", "true", '"1"'])
def test_another_schema_is_refused(schema: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f"schema = {schema}")
    with input_error("has schema", "this version reads 1 to 2", "use the version that wrote it"):
        read_toml(tmp_path / "a.toml")


def test_of_many_names_the_nearest_five_are_shown() -> None:
    hint = nearest("foo", [f"method{number}/data-ipc1" for number in range(170)])
    assert hint.count("/") == 5
    assert hint.endswith(", and 165 more")
    assert nearest("foo", ["a", "b"]) == "; known: a, b"
    assert nearest("DM/CIFAR10", ["dm/cifar10", "mtt/svhn"]) == "; did you mean 'dm/cifar10'?"


@pytest.mark.parametrize("text", ["", " ", "convnet:", ":"])
def test_an_empty_option_is_said_as_such(text: str) -> None:
    with input_error(f"expected a name, or name:option=value, got {text!r}"):
        parse_spec(text)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("ipc = 1", encoding="utf-8-sig")
    assert read_toml(tmp_path / "a.toml") == {"ipc": 1}
