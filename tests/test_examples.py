"""Every example in a docstring runs, and gives what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import datastill
from datastill import losses

MODULES = ["datastill", *sorted(m.name for m in pkgutil.walk_packages(datastill.__path__, "datastill.") if m.name != "datastill.__main__")]
FINDER = doctest.DocTestFinder(exclude_empty=True)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(tmp_path)  # type: ignore[arg-type]
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for one in FINDER.find(importlib.import_module(name)):
        runner.run(one)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("name", losses.__all__)
def test_every_loss_has_one(name: str) -> None:
    assert ">>>" in (getattr(losses, name).__doc__ or "")
