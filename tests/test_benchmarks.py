"""Benchmarks run by hand and seldom: what they import must be there."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "datastill":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{path.name}: {node.module} has no {alias.name}"
        elif isinstance(node, ast.ImportFrom) and (own := FOLDER / f"{node.module}.py").exists():
            body = ast.parse(own.read_text(encoding="utf-8")).body
            defined = {getattr(one, "name", "") for one in body} | {
                name.id for one in body for name in ast.walk(one) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
            assert {alias.name for alias in node.names} <= defined, f"{path.name}: {node.module}"
