"""Descriptions for the tests of them: random ones, and every field with other values."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from datastill.core import Group, Method, Optim, Plugin, Protocol
from datastill.data import Data, Source
from datastill.description import Description, Family
from datastill.errors import InputError
from datastill.methods.coreset import Coreset
from datastill.methods.distribution import DistributionMatching
from datastill.nets import Architecture
from datastill.nets.convnet import ConvNet
from datastill.nets.mlp import MLP
from datastill.parametrization import Parametrization
from datastill.plugins.total_variation import TotalVariation
from datastill.registry import find
from datastill.registry import members as members_of
from datastill.run import RESERVED, Run, label

FAMILIES = (Method, Plugin, Protocol, Parametrization, Architecture, Source)
MEMBERS = [pytest.param(family, name, id=f"{family.__name__}-{name}") for family in FAMILIES for name in members_of(family)]
RUN = Run(method=DistributionMatching(queue={}), plugins=(TotalVariation(), TotalVariation(label="second")))

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

VALUES: dict[object, list[Any]] = {
    tuple[int, int]: [(0, 2), (1, 2)],
    bool: [True, False], int: [0, 1, 2, 3, 5, 8, 64], float: [0.0, 0.25, 0.5, 2.0], types.NoneType: [None],
    str: ["crop", "mnist", "0.5", "other", "resnet34"]}
TOGETHER: dict[str, Any] = {"distribution": {"queue": {}}, "trajectory": {"first_start": 4, "expand": 100}, "recover": {"together": "class"}, "latent": {"low": -5.0, "high": 10.0, "generator": "generators:Small"}}  # fields that are valid only with one another
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
    pinned = pinned or ("MaxLen" in limits and limits["MaxLen"].max_length == 0)
    only = len(typing.get_args(field.annotation)) == 1 and typing.get_origin(field.annotation) is Literal
    return pinned or only or (isinstance(value, Description) and not isinstance(value, Family))
