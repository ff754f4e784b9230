"""Descriptions written out, and what their digests are of."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given

from datastill import tables
from datastill.core import Group, Method, Optim
from datastill.data import Data
from datastill.description import NOT_DECISIVE, Description, Family, load
from datastill.digest import digest, dump, spec, to_toml
from datastill.methods.distribution import DistributionMatching
from datastill.nets import Architecture
from datastill.nets.convnet import ConvNet
from datastill.parametrizations.pixels import Pixels
from datastill.plugins.total_variation import TotalVariation
from datastill.registry import find
from datastill.run import Run
from datastill.tables import read_toml
from described import MEMBERS, RUN, TOGETHER, at, fields, methods, networks, runs, settled, variants
from kit import changed_pixel, quick, toy_images


def test_dump_writes_every_field_defaults_included() -> None:
    table = dump(RUN)
    assert set(table) == set(Run.model_fields)
    assert table["method"]["kind"] == "distribution"
    assert table["method"]["optim"]["images"] == {"lr": 1.0, "momentum": 0.5, "clip": "none"}
    assert table["data"]["source"] == {"kind": "digits"}


@quick
@given(runs)
def test_a_run_comes_back_from_toml(run: Run) -> None:
    table = tomllib.loads(to_toml(run))
    assert table.pop("schema") == tables.SCHEMA
    back = load(Run, table)
    assert back == run
    assert back.digest(toy_images()) == run.digest(toy_images())


def test_to_toml_is_what_read_toml_reads(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(to_toml(RUN, digest="abc"), encoding="utf-8")
    table = read_toml(tmp_path / "run.toml")
    assert table.pop("digest") == "abc"
    assert load(Run, table) == RUN


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


def test_an_outside_plugin_comes_back_from_toml(outside_plugin: str) -> None:
    run = load(Run, {"method": "coreset", "plugins": {"mine": {"kind": outside_plugin, "strength": 2},
                                                      outside_plugin: {}}})
    assert [plugin.strength for plugin in run.plugins] == [2, 1]  # type: ignore[attr-defined]
    assert load(Run, {k: v for k, v in tomllib.loads(to_toml(run)).items() if k != "schema"}) == run


class Averaging(Description):
    """A nested optional setting whose default is set."""

    optim: Optim = Optim(ema=0.9)


@pytest.mark.parametrize("ema", [None, 0.5, 0.9])
def test_a_setting_taken_away_stays_away(ema: float | None) -> None:
    given = Averaging(optim=Optim(ema=ema))
    table = tomllib.loads(to_toml(given))
    del table["schema"]
    assert load(Averaging, table) == given


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
