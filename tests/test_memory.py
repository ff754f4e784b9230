"""Memory: what graphs hold, counted by hand; what there is."""

from __future__ import annotations

import os

import pytest
import torch

from datastill import memory


def test_a_graph_holds_each_tensor_once() -> None:
    x, w = torch.ones(1000, requires_grad=True), torch.ones(1000, requires_grad=True)
    assert memory.held_by_graph(lambda: x + w) == 0
    assert memory.held_by_graph(lambda: x * w) == 8000  # both factors
    assert memory.held_by_graph(lambda: x * x) == 4000
    assert memory.held_by_graph((x * w).exp) == 4000  # the result; x * w was made outside


def test_more_of_the_same_holds_more() -> None:
    x = torch.ones(1000, requires_grad=True)
    assert memory.held_by_graph(lambda: [(x + i).exp() for i in range(7)]) == 28_000


def test_total_is_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**28 < memory.total() == memory.total(torch.device("cpu")) < 2**50
    monkeypatch.delattr(os, "sysconf")
    assert memory.total() == 2**63
