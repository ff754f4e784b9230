"""Members of families, found by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from datastill import registry
from datastill.core import Method
from datastill.description import Family, load
from datastill.digest import digest, dump
from datastill.registry import find, kind, names
from described import MEMBERS
from kit import input_error

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
