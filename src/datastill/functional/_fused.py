"""Instance normalization, ReLU and 2x2 average pooling as one operation with its own first and second derivative."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datastill.functional import _kernels

SHARED = 2**17  # values from which on threads share the work: 0.1 ms


def plainly(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The same by torch's own operations, differentiable any number of times."""
    return F.avg_pool2d(F.relu(F.group_norm(x, x.shape[1], weight, bias, eps)), 2)


class Fused(torch.autograd.Function):
    """Of x (B, C, H, W), weight and bias (C,), all contiguous float32 on the CPU: (B, C, H // 2, W // 2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        images, channels, height, width = x.shape
        out = x.new_empty(images, channels, height // 2, width // 2)
        means, scales = x.new_empty(images * channels), x.new_empty(images * channels)
        _over_planes(_kernels.forward, x, _planes(x), _array(weight), _array(bias), eps, _planes(out), _array(means),
                     _array(scales))
        ctx.save_for_backward(x, weight, bias, means, scales)
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return *_Back.apply(gradient, *ctx.saved_tensors, ctx.eps), None


class _Back(torch.autograd.Function):
    """The derivatives. With z = (x - mean) * scale, u = gradient / 4 where the ReLU is open and w the weight of a channel,
    and with P(f) = scale * (f - mean(f) - z mean(z f)), linear and symmetric, means over a plane, they are P(w u) with
    respect to x, sum(z u) to the weight and sum(u) to the bias. The derivatives of
    <v, P(w u)> + <p, sum(z u)> + <q, sum(u)>, worked out by hand, are
    w P(v) + p z + q where the ReLU is open, averaged over squares, with respect to the gradient; sum(P(v) u) to the weight;
    P(p u - scale (c w u + b v)) - scale^2 a z to x, with b = mean(w u z), c = mean(v z),
    a = mean(v w u) - mean(v) mean(w u) - b c."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, means: Tensor, scales: Tensor,
                eps: float) -> tuple[Tensor, Tensor, Tensor]:
        gradient = gradient.contiguous()
        images, channels = x.shape[:2]
        to_x, to_weight, to_bias = torch.empty_like(x), x.new_empty(images, channels), x.new_empty(images, channels)
        _over_planes(_kernels.backward, x, _planes(gradient), _planes(x), _array(weight), _array(bias), _array(means),
                     _array(scales), _planes(to_x), _array(to_weight), _array(to_bias))
        ctx.save_for_backward(gradient, x, weight, bias, means, scales)
        ctx.eps = eps
        return to_x, to_weight.sum(0), to_bias.sum(0)

    @staticmethod
    def backward(ctx: Any, v: Tensor, p: Tensor, q: Tensor) -> Any:
        gradient, x, weight, bias, means, scales = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative will be asked for
            return *_third(ctx, gradient, x, weight, bias, (v, p, q)), None, None, None
        images, channels = x.shape[:2]
        v, p, q = (one.contiguous() for one in (v, p, q))
        to_gradient, to_x, to_weight = torch.empty_like(gradient), torch.empty_like(x), x.new_empty(images, channels)
        _over_planes(_kernels.twice, x, _planes(gradient), _planes(x), _array(weight), _array(bias), _array(means),
                     _array(scales), _planes(v), _array(p), _array(q), _planes(to_gradient), _planes(to_x),
                     _array(to_weight))
        return to_gradient, to_x, to_weight.sum(0), None, None, None, None


def _third(ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor,
           along: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """What ``_Back.backward`` returns, with a graph."""
    gradient, x, weight, bias = (one if one.requires_grad else one.detach().requires_grad_()
                                 for one in (gradient, x, weight, bias))
    out = plainly(x, weight, bias, ctx.eps)
    first = torch.autograd.grad(out, (x, weight, bias), gradient, create_graph=True)
    found = torch.autograd.grad(first, (gradient, x, weight, bias), along, create_graph=True, allow_unused=True)
    return tuple(one if wanted else None for one, wanted in zip(found, ctx.needs_input_grad, strict=False))


def _array(tensor: Tensor) -> Any:
    return tensor.detach().reshape(-1).numpy()


def _planes(x: Tensor) -> Any:
    return x.detach().view(-1, *x.shape[-2:]).numpy()


_threads: dict[int, ThreadPoolExecutor] = {}  # by process: those of a parent are not there after a fork


def _over_planes(kernel: Any, x: Tensor, *arrays: Any) -> None:
    """Call a kernel for all planes of x (B, C, H, W), by as many threads as torch uses."""
    planes, count = x.shape[0] * x.shape[1], torch.get_num_threads() if x.numel() >= SHARED else 1
    if count == 1:
        kernel(*arrays, 0, planes)
        return
    if (pool := _threads.get(os.getpid())) is None:
        pool = _threads[os.getpid()] = ThreadPoolExecutor(max(32, count), "datastill")
    bounds = [planes * number // count for number in range(count + 1)]
    (first, last), *more = pairwise(bounds)
    others: list[Future[None]] = [pool.submit(kernel, *arrays, *pair) for pair in more]
    kernel(*arrays, first, last)
    for one in others:
        one.result()
