"""Environment variables: the known value, none, and any other."""

from __future__ import annotations

import pytest

from datastill.environment import environment
from kit import input_error


def test_the_known_value_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATASTILL_X", raising=False)
    assert environment("DATASTILL_X", "torch") == ""
    for value in ("", "torch"):
        monkeypatch.setenv("DATASTILL_X", value)
        assert environment("DATASTILL_X", "torch") == value
    monkeypatch.setenv("DATASTILL_X", "banana")
    with input_error("the environment variable DATASTILL_X is 'banana'; expected 'torch', or not to be set"):
        environment("DATASTILL_X", "torch")
