"""Descriptions: read from Python and from tables alike, refused in one line."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from datastill.core import Group
from datastill.data import Data
from datastill.description import Description, Family, load
from datastill.digest import digest, dump, to_toml
from datastill.methods.distribution import DistributionMatching
from datastill.methods.trajectory import TrajectoryMatching
from datastill.nets.convnet import ConvNet
from datastill.plugins.total_variation import TotalVariation
from datastill.recipes import Published
from datastill.registry import find, kind
from datastill.run import Run, label
from datastill.study import Study
from datastill.tables import override
from described import MEMBERS, RUN, TOGETHER, at, changed, fields, variants
from kit import input_error


def test_a_description_stays_as_it_is() -> None:
    with pytest.raises(ValidationError):
        RUN.ipc = 3  # type: ignore[misc]
    assert load(Run, RUN) is RUN


@pytest.mark.parametrize("network", ["convnet:width=32", {"kind": "convnet", "width": 32}, ConvNet(width=32)])
def test_a_network_is_a_spec_a_table_or_an_object(network: object) -> None:
    assert load(Run, {"method": "coreset", "network": network}).network == ConvNet(width=32)
    assert Run(method="coreset", network=network).network == ConvNet(width=32)  # type: ignore[arg-type]


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


def test_a_list_of_one_may_be_given_as_that_one() -> None:
    from datastill.teachers import Pool
    one = load(Pool, "supervised:networks=mlp,epochs=3")  # type: ignore[type-abstract]
    assert one == load(Pool, {"kind": "supervised", "networks": [{"kind": "mlp"}], "epochs": 3})  # type: ignore[type-abstract]
    assert load(Pool, {"kind": "supervised", "snapshots": "every"}).snapshots == "every"  # type: ignore[type-abstract, attr-defined]
    with input_error("networks[0]", "unknown network 'mpl'"):
        load(Pool, {"kind": "supervised", "networks": "mpl"})  # type: ignore[type-abstract]


@pytest.mark.parametrize(("change", "parts"), [
    ("ipcc=3", ("unknown key 'ipcc'", "did you mean 'ipc'")),
    ("zzz=3", ("unknown key 'zzz'", "known: ", "method", "seed")),
    ("method.iteration=3", ("unknown key 'method.iteration'", "'iterations'")),
    ("method.optim.image.lr=3", ("unknown key 'method.optim.image'", "'images'")),
    ("plugins.total_variation.wait=1", ("unknown key 'plugins.total_variation.wait'", "'weight'")),
    ("plugins.total_variatoin.weight=1", ("plugins.total_variatoin", "unknown plug-in", "'total_variation'")),
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
    ("data.name=cifar10", ("unknown key 'data.name'", "it is now called 'source'")),
    ("method.optim.lr.lr=1", ("unknown key 'method.optim.lr'", "it is now called 'inner_lr'")),
    ("plugins.clom.pool.initialisations=2", ("unknown key 'plugins.clom.pool.initialisations'", "it is now called 'count'")),
    ("method.optim.lr=1", ("unknown key 'method.optim.lr'; did you mean 'images.lr'",)),
    ("shard=[]", ("shard[0] is missing",)),
    ("plugins.clom.pool.snapshots=1,a", ("plugins.clom.pool.snapshots[1]: input should be a valid integer", "got 'a'")),
    ("data.test=true", ("data.test: expected a number, got true",)),
    ("ipc=1e308", ("ipc: the number is too large, got 1e+308",)),
    ("method.optim.images.lr=1e308", ("less than or equal to 1e+30,",)),
    ("plugins.clom.pool.initializations=2", ("it is now called 'count'",)),
    ("width=3", ("unknown key 'width'", "did you mean 'network.width'")),
    ("iterations=3", ("unknown key 'iterations'", "did you mean 'method.iterations'")),
    ("shard=1,two", ("shard[1]", "integer", "'two'")),
    ("plugins.clom.pool.networks=mlp,convnett", ("pool.networks[1]", "unknown network 'convnett'")),
    ("network=vit:depth=100000", ("network.depth", "less than or equal to 100")),
    ("method.batch_real=1000000000000", ("method.batch_real", "expected at most 1000000000, got 1000000000000")),
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


@pytest.mark.parametrize(("wrong", "parts"), [
    ({"data": "cifar"}, ("data.source", "'cifar10'")), ({"ipc": 0}, ("ipc", "got 0")), ({"ipcc": 1}, ("unknown key 'ipcc'",)),
    ({"seed": True}, ("seed", "expected a number, got true")), ({"method": {"kind": "dm", "iterations": True}}, ("method.iterations",)),
    ({"plugins": {"clom": {"pool": {"networks": [True]}}}}, ("plugins.clom.pool.networks[0]", "expected a table"))])
def test_a_run_in_python_fails_in_one_line(wrong: dict[str, Any], parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        Run(**{"method": "dm", **wrong})


def test_what_a_field_can_be_is_said_at_once() -> None:
    from datastill.teachers import Pool
    with input_error("epoch: input should be a valid integer", "or input should be 'last', got 'first'"):
        load(Pool, {"kind": "supervised", "epoch": "first"})  # type: ignore[type-abstract]
    assert load(Pool, {"kind": "supervised", "snapshots": 3}).snapshots == (3,)  # type: ignore[type-abstract, attr-defined]


def test_old_spelling_is_told_the_new_where_there_is_such_a_field() -> None:
    class Own(Description):
        optimizer: str = "sgd"

    with input_error("unknown key 'optimiser'; it is now called 'optimizer'"):
        load(Own, {"optimiser": "adam"})
    with input_error("published.accuracy is missing (and 1 more)"):
        load(Published, {}, "published")
    with input_error("recipes: dictionary should have at least 1 item, not 0"):
        load(Study, {"question": "which?", "recipes": {}})
    with input_error("unknown key 'method.optimiser'", "'optim'"):
        load(Run, {"method": {"kind": "dm", "optimiser": "adam"}})


@pytest.mark.parametrize(("setting", "value"), [
    ("data.classes=2,7", ("2", "7")), ("data.classes=[0,1]", ("0", "1")), ("data.classes=cat, dog", ("cat", "dog")),
    ("shard=1,2", (1, 2)), ("data.path=a,b", "a,b"), ("plugins.clom.pool.networks=convnet:width=4,depth=2", "convnet"),
    ("plugins.clom.pool.networks=mlp,convnet:width=4", "mlp convnet"), ("plugins.clom.pool.drops=0.3,0.6", (0.3, 0.6))])
def test_plain_values_with_commas_are_a_list(setting: str, value: Any) -> None:
    run = load(Run, override({"method": "dm", "ipc": 4}, [setting]))
    found: Any = run
    for key in setting.partition("=")[0].split("."):
        found = found[0] if key == "clom" else getattr(found, key)
    assert found == value or " ".join(map(kind, found)) == value


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_every_whole_number_has_a_limit(family: Any, name: str) -> None:
    for key, field in find(family, name).model_fields.items():
        if field.annotation is int:
            with input_error(key, f"got {2**63}"):
                load(family, {"kind": name, key: 2**63})
