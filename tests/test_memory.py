"""Memory: what graphs hold, counted by hand; what there is."""

from __future__ import annotations

import os
import platform
import subprocess
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


FAULTS = """
import resource, torch
from datastill.compute import computing
with computing(torch.device("cpu")):
    for _ in range(20):
        torch.ones(10 * 2**20)  # 40 MiB: above what glibc ever keeps by itself
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(10 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")
def test_freed_memory_is_kept_and_not_got_again_page_by_page() -> None:
    def faults(**environment: str) -> int:
        there = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "DATASTILL_ALLOCATOR"))}
        return int(subprocess.run([sys.executable, "-c", FAULTS], env={**there, **environment}, capture_output=True,
                                  text=True, check=True).stdout)

    assert faults() < 1000  # of 20 blocks of 10240 pages
    assert faults(DATASTILL_ALLOCATOR="system") > 20_000
    assert faults(MALLOC_MMAP_THRESHOLD_="131072") > 20_000  # a setting of the user's


@pytest.mark.parametrize("libc", ["", "musl"])
def test_other_c_libraries_are_left_alone(libc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: (libc, ""))
    assert not memory.keep_freed.__wrapped__()
