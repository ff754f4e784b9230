"""Computing: switches that are turned for a piece of work and back, on a GPU that need not be there."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datastill import compute
from datastill.compute import autocast, computing, double, facts, needs_deterministic, send
from datastill.errors import RunError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def switches() -> tuple[Any, ...]:
    return (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32,
            torch.are_deterministic_algorithms_enabled())


@pytest.fixture
def _as_before() -> Iterator[None]:
    matmul, cudnn, _ = switches()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize("before", [(True, True), (False, True), (False, False), (True, False)])
def test_inside_the_switches_stand_as_asked_and_afterwards_as_before(before: tuple[bool, bool]) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    with computing(GPU):
        assert switches() == (False, False, False)
        with computing(GPU, "tf32", deterministic=True):
            assert switches() == (True, True, True)
            with computing(GPU, "bfloat16"):  # a training inside asks for nothing more and takes nothing away
                assert switches() == (False, False, True)
        assert switches() == (False, False, False)
    assert switches() == (*before, False)
    with pytest.raises(KeyError), computing(GPU, "tf32", deterministic=True):
        raise KeyError
    assert switches() == (*before, False)


def test_names_of_torch_that_were_used_before_are_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    class Newer:
        fp32_precision = "none"

        @property
        def allow_tf32(self) -> bool:
            raise RuntimeError("a mix of the legacy and new APIs")

    matmul, cudnn = Newer(), SimpleNamespace(conv=Newer(), rnn=Newer())
    monkeypatch.setattr(torch.backends, "cuda", SimpleNamespace(matmul=matmul))
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    places = (matmul, cudnn.conv, cudnn.rnn)
    with computing(GPU, "tf32"):
        assert [place.fp32_precision for place in places] == ["tf32"] * 3
        with computing(GPU):
            assert [place.fp32_precision for place in places] == ["ieee"] * 3
    assert [place.fp32_precision for place in places] == ["none"] * 3


def test_on_a_cpu_nothing_is_switched() -> None:
    before = switches()
    with computing(CPU, "tf32", deterministic=True):
        assert switches() == before
        assert not needs_deterministic(CPU)


def test_forms_with_a_deterministic_kernel_are_needed_where_they_are_asked_for() -> None:
    assert not needs_deterministic(GPU)
    with computing(GPU, deterministic=True):
        assert needs_deterministic(GPU)
        assert not needs_deterministic(CPU)


def test_an_operation_without_a_deterministic_kernel_stops_the_run_in_a_line() -> None:
    text = "put_ does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'. You can ..."
    with pytest.raises(RunError, match=r"^deterministic=true is not possible: put_ does not have.*leave it out") as caught, \
            computing(GPU, deterministic=True):
        raise RuntimeError(text)
    assert "You can" not in str(caught.value)
    for asked, other in ((True, "out of memory"), (False, text)):
        with pytest.raises(RuntimeError, match=other[:8]) as kept, computing(GPU, deterministic=asked):
            raise RuntimeError(other)
        assert kept.type is RuntimeError


def test_networks_compute_in_bfloat16_where_asked() -> None:
    net, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
    for precision, dtype in (("float32", torch.float32), ("tf32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(CPU, precision):  # type: ignore[arg-type]
            assert net(x).dtype == dtype
    with autocast(torch.device("meta"), "float32"):  # any device will do
        assert not torch.is_autocast_enabled("cpu")


def test_the_card_says_what_decides_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert facts(CPU, "tf32") == {"device": "cpu", "precision": "tf32", "tf32": False, "deterministic": True,
                                  "versions": {"torch": torch.__version__}}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    told = facts(GPU, "tf32", deterministic=False)
    assert (told["device"], told["name"], told["tf32"], told["deterministic"]) == ("cuda", "Some GPU", True, False)
    assert set(told["versions"]) == {"torch", "cuda", "cudnn"}
    assert not facts(GPU, "float32")["tf32"]


def test_host_memory_is_pinned_on_its_way_to_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: (seen.append("pinned"), self)[1])
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *where, **how: (seen.append((*where, how)), self)[1])
    send(torch.ones(2), GPU)
    assert seen == ["pinned", (GPU, {"non_blocking": True})]
    send(torch.ones(2), CPU)
    send(torch.ones(2, device="meta"), GPU)
    assert seen[2:] == [(CPU, {}), (GPU, {})]


def test_float64_is_computed_on_the_cpu_where_a_device_has_none() -> None:
    elsewhere = SimpleNamespace(device=SimpleNamespace(type="mps"), cpu=lambda: torch.ones(2))  # its own double() would fail
    found = double(elsewhere)  # type: ignore[arg-type]
    assert (found.dtype, found.device) == (torch.float64, CPU)
    assert double(torch.ones(2, device="meta")).device.type == "meta"
    assert compute.WITHOUT_FLOAT64 == ("mps",)


@pytest.mark.parametrize(("factor", "insist", "dtype"), [(60.0, False, torch.float32), (60.0, True, torch.bfloat16),
                                                         (1.2, False, torch.bfloat16)])
def test_a_processor_that_is_slow_at_bfloat16_computes_in_float32(factor: float, insist: bool, dtype: torch.dtype,
                                                                 monkeypatch: pytest.MonkeyPatch,
                                                                 caplog: pytest.LogCaptureFixture) -> None:
    compute._is_slow.cache_clear()
    measured: list[int] = []
    monkeypatch.setattr(compute, "slowdown", lambda: (measured.append(1), factor)[1])
    monkeypatch.setenv(compute.INSIST, "1" if insist else "")
    for _ in range(3):
        with autocast(CPU, "bfloat16"):
            assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
    fallen = dtype == torch.float32
    assert facts(CPU, "bfloat16")["precision"].startswith("float32" if fallen else "bfloat16")
    assert [one.getMessage().partition(",")[0] for one in caplog.records] == \
        ["precision=bfloat16 is 60 times slower than float32 on this processor"] * fallen
    assert len(measured) == (0 if insist else 1)  # once in a process
    compute._is_slow.cache_clear()


def test_bfloat16_is_measured_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compute.INSIST)
    monkeypatch.setattr(compute, "_is_slow", None)  # would fail if it were asked
    assert not compute.falls_back(CPU, "float32")
    assert not compute.falls_back(GPU, "bfloat16")
    assert 0 < compute.slowdown() < 1000
