"""Memory: what graphs hold, counted by hand; what there is."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

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
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert memory.total() == 2**63


def test_peak_is_that_of_the_process() -> None:
    before = memory.peak(torch.device("cpu"))
    held = torch.ones(before // 4 + 2**24)  # more than the process had, all of it written
    assert before + 2**20 < memory.peak(torch.device("cpu")) < memory.total()
    assert len(held)


def test_windows_is_asked_through_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=7))
    psutil = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(total=9), Process=lambda: process)
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    assert (memory.total(), memory.peak(torch.device("cpu"))) == (9, 7)


def test_the_gpu_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1, 11))
    assert (memory.peak(torch.device("cuda")), memory.total(torch.device("cuda"))) == (5, 11)
