"""Descriptions: found by name, read and written as TOML, overridden by dotted keys, digested."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import types
import typing
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from datastill import registry, tables
from datastill.core import Group, Method, Optim, Plugin, Protocol
from datastill.data import Data, Source
from datastill.description import NOT_DECISIVE, Description, Family, load
from datastill.digest import digest, dump, spec, to_toml
from datastill.errors import InputError
from datastill.methods.coreset import Coreset
from datastill.methods.distribution import DistributionMatching
from datastill.methods.trajectory import TrajectoryMatching
from datastill.nets import Architecture
from datastill.nets.convnet import ConvNet
from datastill.nets.mlp import MLP
from datastill.parametrizations.pixels import Pixels
from datastill.plugins.total_variation import TotalVariation
from datastill.registry import find, kind, names
from datastill.registry import members as members_of
from datastill.run import RESERVED, Run, label
from datastill.synthetic import Parametrization
from datastill.tables import nearest, override, parse_spec, parse_value, read_toml
from kit import changed_pixel, input_error, quick, toy_images

FAMILIES = (Method, Plugin, Protocol, Parametrization, Architecture, Source)
MEMBERS = [pytest.param(family, name, id=f"{family.__name__}-{name}") for family in FAMILIES for name in members_of(family)]
RUN = Run(method=DistributionMatching(), plugins=(TotalVariation(), TotalVariation(label="second")))


# --- families ---------------------------------------------------------------------------------------------------------

ZOO = {
    "zoo/__init__.py": "",
    "zoo/base.py": """
from abc import abstractmethod
from typing import ClassVar
from datastill.description import Family

class Animal(Family):
    home: ClassVar[str] = "zoo"
    legs: int = 4

    @abstractmethod
    def sound(self) -> str: ...
""",
    "zoo/cat.py": """
from zoo.base import Animal

class Cat(Animal):
    lives: int = 9

    def sound(self) -> str:
        return "meow"
""",
    "zoo/lion.py": """
from zoo.cat import Cat

class Lion(Cat):
    def sound(self) -> str:
        return "roar"
""",
    "zoo/_fossil.py": "from zoo.cat import Cat\nclass Trilobite(Cat): ...\n",
    "farm.py": """
from zoo.base import Animal

class Cow(Animal):
    milk: float = 1.0

    def sound(self) -> str:
        return "moo"

class Ghost(Animal): ...

class Tractor: ...

class Barn:
    class Hen(Cow): ...
""",
    "ruin.py": "import no_such_module_at_all\n",
}


@pytest.fixture
def animal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Family]]:
    """The family of a package ``zoo`` made for the test, with a module ``farm`` outside of it."""
    for name, text in ZOO.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import zoo.base

    yield zoo.base.Animal
    for name in [m for m in sys.modules if m.partition(".")[0] in ("zoo", "farm", "ruin")]:
        del sys.modules[name]


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if an installed package announced ``farm:Cow`` as an animal, and a class that is none as another."""
    points = EntryPoints([EntryPoint("cow", "farm:Cow", "zoo"), EntryPoint("tractor", "farm:Tractor", "zoo")])
    monkeypatch.setattr(registry, "entry_points", points.select)


def test_a_member_is_found_by_its_file_name(animal: type[Family]) -> None:
    assert find(animal, "cat")().sound() == "meow"
    assert find(animal, "lion")().sound() == "roar"


def test_names_are_the_files_with_a_member(animal: type[Family]) -> None:
    assert names(animal) == ["cat", "lion"]


@pytest.mark.parametrize("name", ["base", "_fossil", "fossil", "os", "zoo.cat", "", "Cat", "../cat"])
def test_what_is_no_member_is_not_found(animal: type[Family], name: str) -> None:
    with input_error("unknown animal", repr(name), "cat"):
        find(animal, name)


def test_an_unknown_name_is_answered_with_the_nearest(animal: type[Family]) -> None:
    with input_error("unknown animal 'lyon'; did you mean 'lion'?"):
        find(animal, "lyon")


@pytest.mark.usefixtures("entry")
def test_a_member_is_found_by_entry_point(animal: type[Family]) -> None:
    assert find(animal, "cow")().sound() == "moo"
    assert names(animal) == ["cat", "lion", "cow", "tractor"]
    with input_error("tractor is not a", "Animal"):
        find(animal, "tractor")


def test_a_member_is_found_by_module_and_class(animal: type[Family]) -> None:
    cow = load(animal, "farm:Cow:milk=2.5,legs=3")
    assert (cow.sound(), cow.milk, cow.legs) == ("moo", 2.5, 3)
    assert dump(cow) == {"kind": "farm:Cow", "legs": 3, "milk": 2.5}
    assert load(animal, dump(cow)) == cow


@pytest.mark.parametrize("name", ["cat", "lion", "farm:Cow", "farm:Barn.Hen"])
def test_kind_is_the_name_find_knows(animal: type[Family], name: str) -> None:
    member: Any = find(animal, name) if "Hen" not in name else __import__("farm").Barn.Hen
    assert kind(member) == name
    assert find(animal, kind(member)) is member


@pytest.mark.parametrize(("name", "parts"), [
    ("farms:Cow", ("farms:Cow", "no module 'farms'", "PYTHONPATH")),
    ("farm:Cou", ("farm has no class 'Cou'", "did you mean 'Cow'?")),
    ("farm:Ghost", ("farm:Ghost is abstract", "sound")),
    ("farm:Tractor", ("farm:Tractor is not a", "Animal")),
    ("ruin:Cow", ("ruin:Cow", "no_such_module_at_all")),
    (":Cow", (":Cow",)),
    (".farm:Cow", (".farm:Cow",)),
    ("farm:", ("farm:",)),
    ("zoo/cat.py:Cat", ("zoo/cat.py:Cat",)),
])
def test_a_wrong_outside_class_is_one_clear_line(animal: type[Family], name: str, parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        find(animal, name)


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_every_shipped_member_is_found_and_described(family: type[Family], name: str) -> None:
    member = find(family, name)
    assert kind(member) == name
    assert member.__doc__
    assert load(family, name) == member()


def test_nearest_lists_all_where_none_is_near() -> None:
    assert nearest("xyz", ["lion", "cat"]) == "; known: lion, cat"
    assert nearest("xyz", []) == "; known: none"


# --- TOML round trip --------------------------------------------------------------------------------------------------

rates = st.floats(0, 1e30)
groups = st.builds(Group, lr=rates, momentum=st.floats(0, 0.999))
optims = st.builds(Optim, name=st.sampled_from(["sgd", "adam"]), images=groups, inner_lr=groups,
                   parameters=st.dictionaries(st.text(max_size=4), groups, max_size=2),
                   ema=st.none() | st.floats(0.001, 0.999))
methods = st.builds(Coreset) | st.builds(DistributionMatching, iterations=st.integers(0, 10**9),
                                         augment=st.sampled_from(["none", "crop_flip"]), optim=optims)
plugins = st.lists(st.builds(TotalVariation, weight=rates, balance=st.sampled_from(["fixed", "gradient"]),
                             label=st.text(max_size=6).filter(lambda text: text not in RESERVED and not text.startswith("share."))),
                   max_size=3, unique_by=label).map(tuple)
datas = st.builds(Data, source=st.sampled_from(["digits", "mnist", "folder"]), path=st.none() | st.text(max_size=5),
                  size=st.none() | st.integers(4, 99), validation=st.floats(0, 0.99))
networks = st.builds(ConvNet, width=st.integers(1, 16384), norm=st.sampled_from(["batch", "none"])) | st.builds(MLP)
runs = st.builds(Run, method=methods, plugins=plugins, data=datas, network=networks, ipc=st.integers(1, 10**6),
                 seed=st.integers(0, 2**63 - 1))


@quick
@given(runs)
def test_a_run_comes_back_from_toml(run: Run) -> None:
    table = tomllib.loads(to_toml(run))
    assert table.pop("schema") == tables.SCHEMA
    back = load(Run, table)
    assert back == run
    assert back.digest(toy_images()) == run.digest(toy_images())


def test_two_plugins_of_one_kind_stand_under_their_labels() -> None:
    text = """
        method = "coreset"
        [plugins.smooth]
        kind = "total_variation"
        weight = 2.0
        [plugins.total_variation]
        weight = 3.0
    """
    run = load(Run, tomllib.loads(text))
    assert run.plugins == (TotalVariation(weight=2.0, label="smooth"), TotalVariation(weight=3.0))
    assert list(dump(run)["plugins"]) == ["smooth", "total_variation"]
    assert load(Run, dump(run)) == run


def test_an_outside_plugin_comes_back_from_toml(outside_plugin: str) -> None:
    run = load(Run, {"method": "coreset", "plugins": {"mine": {"kind": outside_plugin, "strength": 2},
                                                      outside_plugin: {}}})
    assert [plugin.strength for plugin in run.plugins] == [2, 1]  # type: ignore[attr-defined]
    assert load(Run, {k: v for k, v in tomllib.loads(to_toml(run)).items() if k != "schema"}) == run


@pytest.fixture
def outside_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The kind of a plug-in in a module of the user's."""
    (tmp_path / "my_plugins.py").write_text("""
from datastill.core import Plugin

class Mine(Plugin):
    strength: int = 1

    def loss(self, step, task, rng):
        return step.batch.x.sum()
""")
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_plugins:Mine"
    sys.modules.pop("my_plugins", None)


class Averaging(Description):
    """A nested optional setting whose default is set."""

    optim: Optim = Optim(ema=0.9)


@pytest.mark.parametrize("ema", [None, 0.5, 0.9])
def test_a_setting_taken_away_stays_away(ema: float | None) -> None:
    given = Averaging(optim=Optim(ema=ema))
    table = tomllib.loads(to_toml(given))
    del table["schema"]
    assert load(Averaging, table) == given


def test_dump_writes_every_field_defaults_included() -> None:
    table = dump(RUN)
    assert set(table) == set(Run.model_fields)
    assert table["method"]["kind"] == "distribution"
    assert table["method"]["optim"]["images"] == {"lr": 1.0, "momentum": 0.5, "clip": "none"}
    assert table["data"]["source"] == {"kind": "digits"}


def test_the_same_run_in_python_and_in_toml() -> None:
    run = Run(method=DistributionMatching(iterations=7), plugins=(TotalVariation(weight=0.5),), network="mlp:width=9",
              data=Data(source="cifar10"), ipc=3)
    text = """
        ipc = 3
        network = "mlp:width=9"
        data = "cifar10"
        method = {kind = "distribution", iterations = 7}
        plugins.total_variation.weight = 0.5
    """
    assert load(Run, tomllib.loads(text)) == run


def test_a_description_stays_as_it_is() -> None:
    with pytest.raises(ValidationError):
        RUN.ipc = 3  # type: ignore[misc]
    assert load(Run, RUN) is RUN


@pytest.mark.parametrize("network", ["convnet:width=32", {"kind": "convnet", "width": 32}, ConvNet(width=32)])
def test_a_network_is_a_spec_a_table_or_an_object(network: object) -> None:
    assert load(Run, {"method": "coreset", "network": network}).network == ConvNet(width=32)
    assert Run(method="coreset", network=network).network == ConvNet(width=32)  # type: ignore[arg-type]


@quick
@given(networks | methods)
def test_spec_is_the_short_form_that_load_reads(member: Family) -> None:
    family = Architecture if isinstance(member, Architecture) else Method
    plain = type(member)(**{k: v for k, v in member if not isinstance(v, Description)})
    assert load(family, spec(plain)) == plain  # type: ignore[type-abstract]


@pytest.mark.parametrize(("member", "text"), [
    (ConvNet(), "convnet"), (ConvNet(width=32, norm="batch"), "convnet:width=32,norm=batch"),
    (DistributionMatching(), "distribution"), (DistributionMatching(iterations=3), "distribution:iterations=3"),
])
def test_spec_holds_what_differs_from_the_defaults(member: Family, text: str) -> None:
    assert spec(member) == text


# --- specs, values, overrides -----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("assignment", ["ipc", "=3", "a..b=1", ".ipc=1", ""])
def test_a_malformed_override_is_explained(assignment: str) -> None:
    with input_error("expected key=value", repr(assignment)):
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


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "parts"), [
    ("ipcc=3", ("unknown key 'ipcc'", "did you mean 'ipc'")),
    ("zzz=3", ("unknown key 'zzz'", "known: ", "method", "seed")),
    ("method.iteration=3", ("unknown key 'method.iteration'", "'iterations'")),
    ("method.optim.image.lr=3", ("unknown key 'method.optim.image'", "'images'")),
    ("plugins.total_variation.wait=1", ("unknown key 'plugins.total_variation.wait'", "'weight'")),
    ("plugins.total_variatoin.weight=1", ("plugins.total_variatoin", "unknown plugin", "'total_variation'")),
    ("network=convnett", ("network", "'convnett'", "'convnet'")),
    ("network=convnet:widht=3", ("network.widht", "'width'")),
    ("method=distributoin", ("method", "unknown method 'distributoin'", "'distribution'")),
    ("method.kind=5", ("method.kind", "expected a name", "5")),
    ("ipc=ten", ("ipc", "integer", "'ten'")),
    ("ipc=1.5", ("ipc", "integer", "1.5")),
    ("ipc=0", ("ipc", "greater than or equal to 1", "got 0")),
    ("seed=-1", ("seed", "greater than or equal to 0", "-1")),
    ("data.validation=1.0", ("data.validation", "less than 1", "1.0")),
    ("data.source=3", ("data.source", "expected a table", "got 3")),
    ("data=cifar", ("data.source", "unknown dataset 'cifar'", "'cifar10'")),
    ("data.name=cifar10", ("unknown key 'data.name'", "it is called 'source' now")),
    ("data.nam=cifar10", ("unknown key 'data.nam'", "known: source")),
    ("seed=true", ("seed", "expected a number, got true")),
    ("method.iterations=false", ("method.iterations", "expected a number, got false")),
    ("method=3", ("method", "expected a table", "3")),
    ("method.optim=adam", ("method.optim", "expected a table", "'adam'")),
    ("method.optim.name=adamw", ("method.optim.name", "'sgd' or 'adam'", "'adamw'")),
    ("method.optim.images.lr=-1", ("method.optim.images.lr", "greater than or equal to 0", "-1")),
    ("method.optim.parameters.pixels.lr=x", ("method.optim.parameters.pixels.lr", "number", "'x'")),
    ("method.augment=crop_wrap", ("method.augment", "'wrap'", "cutout")),
    ("plugins.total_variation=3", ("plugins.total_variation", "expected a table", "3")),
    ("plugins=3", ("plugins", "3")),
    ("plugins.method.kind=total_variation", ("'method' is taken", "label")),
    ("plugins.total_variation.weight=inf", ("plugins.total_variation.weight", "finite", "inf")),
])
def test_a_wrong_key_or_value_is_one_line_with_its_path(change: str, parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        load(Run, override({"method": {"kind": "distribution"}}, [change]))


def test_a_missing_kind_is_answered_with_the_known_ones() -> None:
    with input_error("method: 'kind' is missing", "coreset", "distribution"):
        load(Run, {"method": {"iterations": 3}})


def test_a_missing_field_is_named() -> None:
    with input_error("method is missing"):
        load(Run, {})


def test_two_plugins_of_one_name_are_refused() -> None:
    with input_error("total_variation"):
        Run(method="coreset", plugins=(TotalVariation(), TotalVariation(weight=2.0)))  # type: ignore[arg-type]


def test_further_problems_are_counted() -> None:
    with input_error("(and 1 more)"):
        load(Run, {"method": "coreset", "ipc": 0, "seed": -1})


@pytest.mark.parametrize(("content", "parts"), [
    (b"ipc = =", ("cannot be read as TOML", "line 1")),
    (b"\xff\xfe", ("cannot be read as TOML",)),
    (b"schema = 99", ("schema 99", "reads 1")),
    (None, ("no file",)),
])
def test_an_unreadable_toml_file_is_named(tmp_path: Path, content: bytes | None, parts: tuple[str, ...]) -> None:
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with input_error(str(path), *parts):
        read_toml(path)


def test_a_folder_is_no_toml_file(tmp_path: Path) -> None:
    with input_error(str(tmp_path)):
        read_toml(tmp_path)


def test_to_toml_is_what_read_toml_reads(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(to_toml(RUN, digest="abc"), encoding="utf-8")
    table = read_toml(tmp_path / "run.toml")
    assert table.pop("digest") == "abc"
    assert load(Run, table) == RUN


# --- the digest -------------------------------------------------------------------------------------------------------

VALUES: dict[object, list[Any]] = {
    tuple[int, int]: [(0, 2), (1, 2)],
    bool: [True, False], int: [0, 1, 2, 3, 5, 8, 64], float: [0.0, 0.25, 0.5, 2.0], types.NoneType: [None],
    str: ["crop", "mnist", "0.5", "other", "resnet34"]}

TOGETHER = {"trajectory": {"first_start": 4, "expand": 100}}  # fields that are valid only with one another

Place = tuple[str | int, ...]


def fields(description: Description, path: Place = ()) -> Iterator[tuple[Place, FieldInfo]]:
    """Every field of a description and of the descriptions in it, by path."""
    for name, field in type(description).model_fields.items():
        yield (*path, name), field
        value = getattr(description, name)
        inside = [((), value)] if isinstance(value, Description) else [
            ((i,), v) for i, v in enumerate(value)] if isinstance(value, tuple) else []
        for index, inner in inside:
            if isinstance(inner, Description):
                yield from fields(inner, (*path, name, *index))


def values_of(annotation: Any) -> list[Any]:
    """Some values of this type; a type that is new to this table has to be added to it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return list(arguments)
    if origin is typing.Annotated:
        return values_of(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return [value for argument in arguments for value in values_of(argument)]
    if origin is tuple and annotation not in VALUES:
        inner = values_of(arguments[0])
        return [(), (inner[0],), tuple(inner[:2]), tuple(inner[1:2])]
    if origin is dict:
        return [{}, {"pixels": values_of(arguments[1])[0]}]
    return members(annotation) if annotation not in VALUES else VALUES[annotation]


def members(cls: type[Description]) -> list[Any]:
    return [find(cls, name)() for name in members_of(cls)] if issubclass(cls, Family) else [cls()]


def at(description: Any, path: Place) -> Any:
    for key in path:
        description = description[key] if isinstance(key, int) else getattr(description, key)
    return description


def changed(description: Any, path: Place, value: Any) -> Any:
    """The description with another value at this path, validated."""
    key, *rest = path
    if isinstance(key, int):
        return (*description[:key], changed(description[key], tuple(rest), value), *description[key + 1:])
    inner = changed(getattr(description, key), tuple(rest), value) if rest else value
    return type(description)(**{**dict(description), key: inner})


def variants(description: Description, path: Place, field: FieldInfo) -> Iterator[Description]:
    """The description with every other valid value we know for one field."""
    value = at(description, path)
    if isinstance(value, Description) and not isinstance(value, Family):
        return  # its own fields are walked
    others = values_of(field.annotation)
    if isinstance(value, Family):  # another class with the same fields is another thing too
        others.append(twin(type(value))(**dict(value)))
    for other in others:
        if other != value:
            try:
                yield changed(description, path, other)
            except InputError:
                continue


def twin(member: type[Family]) -> type[Family]:
    return type("Twin", (member,), {"__module__": __name__, "__doc__": "The same fields, another class."})


def settled(field: FieldInfo, value: Any) -> bool:
    """Whether a field allows one value only, or is itself a description whose fields are walked."""
    limits = {type(m).__name__: m for m in field.metadata}
    pinned = "Ge" in limits and "Le" in limits and limits["Ge"].ge == limits["Le"].le
    only = len(typing.get_args(field.annotation)) == 1 and typing.get_origin(field.annotation) is Literal
    return pinned or only or (isinstance(value, Description) and not isinstance(value, Family))


def check_every_field_counts(description: Description) -> None:
    """Each field changed in turn: all digests differ, but for fields that are not decisive and changes to the same thing."""
    original = digest(description)
    seen = {original: ("the original", description)}
    for path, field in fields(description):
        name = ".".join(map(str, path))
        found = list(variants(description, path, field))
        assert found or settled(field, at(description, path)), f"no other value known for {name}"
        for variant in found:
            new = digest(variant)
            if NOT_DECISIVE in field.metadata:
                assert new == original, f"{name} is not decisive, yet changes the digest"
            else:
                assert new not in seen or seen[new][0] == name or seen[new][1] == variant, f"{name} gives the digest of {seen[new][0]}"
                seen[new] = (name, variant)


def test_every_field_of_a_run_changes_the_digest() -> None:
    check_every_field_counts(RUN)


def check_python_is_toml(description: Description) -> None:
    """Every field set in turn: by keyword, inside a plain table, and in TOML text come to the same, digest included."""
    cls = type(description)
    for path, field in fields(description):
        for variant in variants(description, path, field):
            if "Twin" in repr(variant):  # a class nothing can find
                continue
            table = {key: value for key, value in dump(variant).items() if key != "kind"}
            text = tomllib.loads(to_toml(variant))
            del text["schema"]
            read = load(cls, {key: value for key, value in text.items() if key != "kind"})
            assert cls(**table) == read == variant, path
            assert digest(cls(**table)) == digest(read) == digest(variant)
            if all(isinstance(key, str) for key in path) and not cls.model_fields[path[0]].is_required():  # this setting alone, the others as they were
                value = at(variant, path)
                plain = dump(value) if isinstance(value, Description) else value
                for key in reversed(path):
                    plain = {key: plain}  # type: ignore[index]
                start = {key: value for key, value in description if key != path[0] and key in description.model_fields_set}
                assert cls(**start, **plain) == load(cls, {**start, **plain}) == changed(description, path, value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_python_and_toml_say_the_same(family: type[Family], name: str) -> None:
    check_python_is_toml(find(family, name)(**TOGETHER.get(name, {})))


def test_a_run_in_python_and_in_toml_say_the_same() -> None:
    check_python_is_toml(Run(method=DistributionMatching(), plugins=(TotalVariation(), TotalVariation(label="second"))))


def test_settings_lie_over_the_defaults_of_their_field() -> None:
    """The ones that were lost in Python, or reset what stood beside them."""
    assert DistributionMatching(optim={"images": {"momentum": 0.9}}).optim.images == Group(lr=1.0, momentum=0.9)  # type: ignore[arg-type]
    averaged = TrajectoryMatching(optim={"ema": 0.9995}).optim  # type: ignore[arg-type]
    assert (averaged.images.lr, averaged.inner_lr.lr, averaged.ema) == (100.0, 1e-5, 0.9995)
    run = Run(method="dm", data="cifar10", plugins={"total_variation": {"weight": 2}, "second": {"kind": "total_variation"}})  # type: ignore[arg-type]
    assert [(label(plugin), plugin.weight) for plugin in run.plugins] == [("total_variation", 2.0), ("second", 1.0)]
    assert run.data == Data(source="cifar10")  # type: ignore[arg-type]
    same = Run(method="dm", plugins={"smooth": TotalVariation(weight=3.0)})  # type: ignore[arg-type]
    assert label(same.plugins[0]) == "smooth"


@pytest.mark.parametrize(("wrong", "parts"), [
    ({"data": "cifar"}, ("data.source", "'cifar10'")), ({"ipc": 0}, ("ipc", "got 0")), ({"ipcc": 1}, ("unknown key 'ipcc'",)),
    ({"seed": True}, ("seed", "expected a number, got true")), ({"method": {"kind": "dm", "iterations": True}}, ("method.iterations",)),
    ({"plugins": {"clom": {"pool": {"networks": [True]}}}}, ("plugins.clom.pool.networks[0]", "expected a table"))])
def test_a_run_in_python_fails_in_one_line(wrong: dict[str, Any], parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        Run(**{"method": "dm", **wrong})


@pytest.mark.parametrize(("name", "cls"), [("dm", "distribution"), ("dsa", "gradient"), ("DSAC", "gradient"), ("mtt", "trajectory"),
                                           ("tesla", "trajectory"), ("ftd", "trajectory"), ("datm", "trajectory"), ("herding", "coreset")])
def test_names_of_the_literature(name: str, cls: str) -> None:
    """They are short for a member with settings: dumped as that, and with the digest of that."""
    member = load(Method, name)  # type: ignore[type-abstract]
    assert kind(member) == cls
    assert name.lower() in names(Method)
    _, settings = registry.preset(Method, name)
    assert digest(member) == digest(load(Method, {"kind": cls, **settings}))  # type: ignore[type-abstract]
    assert load(Method, dump(member)) == member  # type: ignore[type-abstract]
    changed = load(Method, {"kind": name, "iterations": 0})  # type: ignore[type-abstract]
    assert changed == member.model_copy(update={"iterations": 0})


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_every_field_of_a_member_changes_the_digest(family: type[Family], name: str) -> None:
    check_every_field_counts(find(family, name)(**TOGETHER.get(name, {})))


def test_the_walk_reaches_into_nested_descriptions() -> None:
    paths = {path for path, _ in fields(RUN)}
    assert {("ipc",), ("method", "optim", "images", "lr"), ("plugins", 1, "weight"), ("data", "size"),
            ("network", "width")} <= paths


@quick
@given(runs)
def test_spelling_out_defaults_keeps_the_digest(run: Run) -> None:
    assert digest(load(Run, dump(run))) == digest(run)


def test_another_spelling_keeps_the_digest() -> None:
    table = {"method": {"kind": "distribution", "iterations": 5}, "network": "convnet:width=32"}
    spelled = {"network": {"width": 32, "depth": 0, "kind": "convnet"}, "ipc": 10, "data": {},
               "method": {"iterations": 5.0, "kind": "distribution", "optim": {"images": {"momentum": 0.5, "lr": 1}}}}
    assert digest(load(Run, table)) == digest(load(Run, spelled))


@pytest.mark.parametrize("part", [Run, DistributionMatching, Optim, Group, TotalVariation, Data, ConvNet, Pixels])
def test_a_new_version_of_a_class_changes_the_digest(part: type[Description], monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(RUN)
    monkeypatch.setattr(part, "version", part.version + 1)
    assert digest(RUN) != before


def test_the_data_change_the_digest() -> None:
    images = toy_images()
    others = [replace(images, pixels=changed_pixel(images)), replace(images, classes=("a", "b", "x"))]
    assert len({RUN.digest(real) for real in (images, *others)}) == 3
    assert RUN.digest(toy_images()) == RUN.digest(images)


def test_the_digest_is_the_same_in_another_process() -> None:
    code = f"from datastill.run import *; import tomllib\nt = tomllib.loads({to_toml(RUN)!r}); del t['schema']\n" \
           "print(digest(load(Run, t)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                            env={**os.environ, "PYTHONHASHSEED": "7"})
    assert answer.stdout.strip() == digest(RUN)


def test_a_list_of_one_may_be_given_as_that_one() -> None:
    from datastill.teachers import Pool
    one = load(Pool, "supervised:networks=mlp,epochs=3")  # type: ignore[type-abstract]
    assert one == load(Pool, {"kind": "supervised", "networks": [{"kind": "mlp"}], "epochs": 3})  # type: ignore[type-abstract]
    assert load(Pool, {"kind": "supervised", "snapshots": "every"}).snapshots == "every"  # type: ignore[type-abstract, attr-defined]
    with input_error("networks[0]", "unknown network 'mpl'"):
        load(Pool, {"kind": "supervised", "networks": "mpl"})  # type: ignore[type-abstract]


def test_what_a_field_can_be_is_said_at_once() -> None:
    from datastill.teachers import Pool
    with input_error("epoch: input should be a valid integer", "or input should be 'last', got 'first'"):
        load(Pool, {"kind": "supervised", "epoch": "first"})  # type: ignore[type-abstract]
    assert load(Pool, {"kind": "supervised", "snapshots": 3}).snapshots == (3,)  # type: ignore[type-abstract, attr-defined]
