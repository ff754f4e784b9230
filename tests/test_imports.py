"""Imports point left only; members of a family do not import each other; the public names are what they say."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import datastill
from datastill.core import Method, Plugin
from datastill.parametrization import Parametrization
from datastill.registry import find, members, presets
from datastill.teachers import Pool

SOURCE = Path(datastill.__file__).parent
ORDER = [["errors", "extras"], ["files", "environment"], ["tables", "foreign", "late", "memory", "progress", "statistics"], ["arguments", "rng", "compute", "registry"],
         ["description"], ["digest"],
         ["store"], ["rows"], ["states", "executors"], ["functional"], ["losses"], ["data"], ["nets"], ["train"], ["parametrization"], ["synthetic", "distilled"],
         ["teachers"], ["relabel", "parametrizations"], ["label_store", "task"], ["core"], ["methods", "plugins", "protocols"], ["artifact", "balance"], ["previous"], ["loop"], ["checkpoint"], ["run"],
         ["outputs"], ["running"], ["recipes", "scoring", "export", "plan", "shards", "place"], ["sheets", "speed"], ["trials"], ["selection", "tuning", "analysis"], ["study"],
         ["comparison", "studies"], ["study_run"], ["report", "console"], ["analyzing"], ["listing", "workspace"], ["scores", "options"], ["analyses"], ["cli"], ["__main__"]]
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}
FAMILIES = {"data", "nets", "parametrizations", "methods", "plugins", "protocols", "teachers"}
SHARED = {"methods": {"_segments", "_opinions", "_unroll_memory", "_patches", "_range", "_sides", "_real_training", "_queue"}, "data": {"source", "images", "description", "whitening", "domain", "_memory", "_torchvision", "_image_files", "_layout", "_fit", "_caveats", "_reader"},
          "nets": {"_blocks", "forms", "choices", "_timing", "network", "_network", "_pool", "_foreign", "_vit", "_resnet18", "_cifar_resnet", "_timm"}, "teachers": {"pool", "_for_run", "_names", "_snapshots", "_lesson", "_self_training", "_views", "_probe", "_trained", "_weights", "_difficulty"},
          "plugins": {"_guidance"}, "protocols": {"_sgd"}, "parametrizations": {"_autoencoder", "_conditional"}}  # a family's base, and what a member is made of; not a member


def imports(path: Path) -> list[str]:
    """Modules of the package that a file imports, inside functions too, but for ``if TYPE_CHECKING``."""
    found, tree = [], ast.parse(path.read_text())
    unseen = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
              for inner in ast.walk(node)}
    for node in (node for node in ast.walk(tree) if id(node) not in unseen):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("datastill"):
            found += [f"{node.module}.{alias.name}" if node.module == "datastill" else str(node.module) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("datastill")]
    return sorted(set(found) - {"datastill"})


def files() -> list[Path]:
    return [p for p in sorted(SOURCE.rglob("*.py")) if p != SOURCE / "__init__.py"]


def part(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_every_part_has_its_place() -> None:
    assert {part(p) for p in files()} <= set(RANK)


def test_imports_point_left() -> None:
    wrong = []
    for path in files():
        for module in imports(path):
            there = module.split(".")[1]
            if there in RANK and there != part(path) and RANK[there] >= RANK[part(path)]:
                wrong.append(f"{path.relative_to(SOURCE)} imports {module}")
    assert not wrong


def test_siblings_of_a_family_do_not_import_each_other() -> None:
    wrong = []
    for path in files():
        family = part(path)
        if family not in FAMILIES or path.stem in SHARED.get(family, set()) | {"__init__"}:
            continue
        allowed = {f"datastill.{family}", *(f"datastill.{family}.{name}" for name in SHARED.get(family, set()))}
        wrong += [f"{path.name} imports {m}" for m in imports(path) if m.startswith(f"datastill.{family}") and m not in allowed]
    assert not wrong


def test_public_names_exist_and_are_documented() -> None:
    for name in datastill.__all__:
        assert getattr(datastill, name).__doc__, name
    assert set(datastill.__all__) == {*datastill._HOME_OF, *datastill._PRESETS, *datastill._MODULES}


@pytest.mark.parametrize("family", [Method, Plugin, Parametrization, Pool])
def test_what_a_run_is_put_together_of_has_a_public_name(family: Any) -> None:
    assert {find(family, name).__name__ for name in members(family)} <= set(datastill.__all__)


def test_methods_have_public_names_as_in_their_papers() -> None:
    chosen = {name for name in presets(Method) if find(Method, name) in (datastill.Coreset, datastill.Ranked)}
    assert set(datastill._PRESETS.values()) == set(presets(Method)) - chosen
