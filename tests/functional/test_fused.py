"""Normalization, ReLU and pooling in one pass: the numbers and all derivatives of torch's three, and when it is used at all."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datastill.functional.fused import fuses, has_kernels, normalized_pool
from datastill.nets import fresh
from datastill.nets.convnet import ConvNet
from datastill.rng import RNG

pytest.importorskip("numba")
SHAPES = [(2, 3, 8, 8), (1, 2, 9, 7), (3, 4, 2, 3), (2, 5, 16, 32), (1, 1, 28, 28)]


def three(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    return F.avg_pool2d(F.relu(F.group_norm(x, x.shape[1], weight, bias, eps)), 2)


def given(shape: tuple[int, ...], seed: int = 0) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """x, weight and bias; a gradient; a vector for each of their derivatives."""
    rng, channels = RNG("fused", seed), shape[1]
    inputs = [rng("x").normal(*shape), rng("w").uniform(channels) + 0.5, 0.3 * rng("b").normal(channels)]
    gradient = rng("g").normal(shape[0], channels, shape[2] // 2, shape[3] // 2)
    return inputs, gradient, [rng("v", number).normal(*one.shape) for number, one in enumerate(inputs)]


def derivatives(operation: Any, shape: tuple[int, ...], dtype: torch.dtype, last: bool = False) -> list[Tensor]:
    """The value, and derivatives of first, second and third order. last: of maps with channels last."""
    inputs, gradient, along = given(shape)
    if last:
        inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    leaves = [one.to(dtype).requires_grad_() for one in inputs]
    at = gradient.to(dtype).requires_grad_()
    out = operation(*leaves)
    first = torch.autograd.grad(out, leaves, at, create_graph=True)
    second = torch.autograd.grad(first, [at, *leaves[:2]], [one.to(dtype) for one in along], create_graph=True)
    third = torch.autograd.grad(sum((one * one).sum() for one in second), [at, *leaves[:2]])
    again = torch.autograd.grad(operation(*leaves), leaves, at, create_graph=True)  # the second order by the kernel itself
    return [out, *first, *second, *third, *torch.autograd.grad(again, [at, *leaves[:2]], [one.to(dtype) for one in along])]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_derivatives_are_as_close_to_the_truth_as_torchs(shape: tuple[int, ...], last: bool) -> None:
    assert has_kernels()
    truth = derivatives(three, shape, torch.float64)
    found = derivatives(normalized_pool, shape, torch.float32, last)
    for mine, theirs, right in zip(found, derivatives(three, shape, torch.float32, last), truth, strict=True):
        largest = float(right.detach().abs().max())
        allowed = max(3 * float((theirs - right).detach().abs().max()), 2e-6 * largest)
        assert float((mine - right).detach().abs().max()) <= allowed


def test_the_layout_is_kept() -> None:
    (x, weight, bias), _, _ = given((2, 3, 8, 8))
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = x.contiguous(memory_format=layout).requires_grad_()
        assert fuses(leaf.detach(), weight, bias)
        found = normalized_pool(leaf, weight, bias)
        (gradient,) = torch.autograd.grad(found.square().sum(), leaf)
        assert found.is_contiguous(memory_format=layout)
        assert gradient.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_no_bit(threads: int, last: bool) -> None:
    shape = (9, 20, 32, 32)  # enough to be shared
    assert torch.Size(shape).numel() > 2**17
    before, one = torch.get_num_threads(), derivatives(normalized_pool, shape, torch.float32, last)
    try:
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(derivatives(normalized_pool, shape, torch.float32, last), one, strict=True))
    finally:
        torch.set_num_threads(before)


def test_what_is_not_finite_stays_so() -> None:
    """A network that diverged must be seen to have diverged."""
    (x, weight, bias), _, _ = given((2, 3, 8, 8))
    for bad in (float("nan"), float("inf")):
        x[1, 2, 3, 4] = bad
        for layout in (torch.contiguous_format, torch.channels_last):
            found = normalized_pool(x.contiguous(memory_format=layout), weight, bias)
            assert not torch.isfinite(found[1, 2]).any()
            assert torch.isfinite(found[0]).all()


def test_a_frozen_network_gives_gradients_to_the_images_only() -> None:
    (x, weight, bias), gradient, _ = given((2, 3, 8, 8))
    mine, theirs = (torch.autograd.grad(operation(x.requires_grad_(), weight, bias), x, gradient)[0]
                    for operation in (normalized_pool, three))
    torch.testing.assert_close(mine, theirs)


def test_everything_else_is_left_to_torch() -> None:
    (x, weight, bias), _, _ = given((2, 3, 8, 8))
    assert fuses(x, weight, bias)
    others = [(x.double(), weight.double(), bias.double()), (x.double(), weight, bias), (x.to("meta"), weight.to("meta"), bias.to("meta")),
              (x[:, :, ::2], weight, bias), (x[:0], weight, bias)]
    assert not any(fuses(*some) for some in others)
    with torch.autocast("cpu", torch.bfloat16):
        assert not fuses(x, weight, bias)
    torch.testing.assert_close(normalized_pool(x.double(), weight.double(), bias.double()), three(x.double(), weight.double(), bias.double()))
    per_image = torch.func.vmap(torch.func.grad(lambda one: normalized_pool(one[None], weight, bias).square().sum()))(x)
    torch.testing.assert_close(per_image, torch.func.grad(lambda some: three(some, weight, bias).square().sum())(x))
    _, tangent = torch.func.jvp(lambda some: normalized_pool(some, weight, bias), (x,), (x,))
    torch.testing.assert_close(tangent, torch.func.jvp(lambda some: three(some, weight, bias), (x,), (x,))[1])


def test_a_convnet_uses_it_unless_a_hook_looks_between(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    from datastill.functional import _fused

    apply = _fused.Fused.apply
    monkeypatch.setattr(_fused.Fused, "apply", lambda x, *more: (seen.append(x.shape[-1]), apply(x, *more))[1])
    net = fresh(ConvNet(width=4), (3, 32, 32), 5, RNG(0), torch.device("cpu"))
    x = RNG("images").normal(2, 3, 32, 32)
    plain = net.walk(x)[0]  # stage by stage, since it gives the maps
    assert seen == []
    torch.testing.assert_close(net.embed(x), plain, rtol=1e-4, atol=1e-5)
    assert seen == [32, 16, 8]
    calls: list[Tensor] = []
    hook = net.get_submodule("features.act2").register_forward_hook(lambda module, inputs, output: calls.append(output))
    net.embed(x)
    assert (len(calls), seen[3:]) == (1, [32, 8])
    hook.remove()
    net.embed(x)
    assert (len(calls), seen[5:]) == (1, [32, 16, 8])


@pytest.mark.parametrize("settings", [{"norm": "batch"}, {"norm": "layer"}, {"norm": "group"}, {"norm": "none"}, {"activation": "swish"},
                                      {"pooling": "max"}, {"pooling": "none", "depth": 1}])
def test_other_convnets_are_as_before(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from datastill.functional import _fused

    monkeypatch.setattr(_fused.Fused, "apply", None)
    net = fresh(ConvNet(width=8, **settings), (3, 16, 16), 5, RNG(0), torch.device("cpu")).eval()
    x = RNG("images").normal(2, 3, 16, 16)
    assert torch.equal(net.embed(x), net.walk(x)[0])


def test_weights_given_from_outside_are_used() -> None:
    """As in unrolled training."""
    net = fresh(ConvNet(width=4), (3, 16, 16), 5, RNG(0), torch.device("cpu"))
    x, other = RNG("images").normal(2, 3, 16, 16), {name: one * 1.5 + 0.1 for name, one in net.named_parameters()}
    found = torch.func.functional_call(net, other, (x,))
    net.load_state_dict(other)
    torch.testing.assert_close(found, net(x))
    assert isinstance(net.features, nn.Sequential)


@pytest.mark.parametrize("how", ["missing", "broken", "unwanted"])
def test_without_kernels_torch_computes_the_same(how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    (x, weight, bias), _, _ = given((2, 3, 8, 8))
    has_kernels.cache_clear()
    try:
        if how == "unwanted":
            monkeypatch.setenv("DATASTILL_KERNELS", "torch")
        elif how == "missing":
            monkeypatch.setitem(sys.modules, "datastill.functional._fused", None)
        else:
            from datastill.functional import _kernels
            monkeypatch.setattr(_kernels, "forward", lambda *_: 1 / 0)
        with caplog.at_level(logging.WARNING, "datastill"):
            assert torch.equal(normalized_pool(x, weight, bias), three(x, weight, bias))
            normalized_pool(x, weight, bias)
        assert ["numba does not work here" in record.message for record in caplog.records] == [True] * (how == "broken")
    finally:
        has_kernels.cache_clear()


def test_numba_is_not_imported_for_lists_and_help() -> None:
    code = "import sys; from datastill import cli, nets; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
