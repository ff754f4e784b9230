"""Instance normalization, ReLU and 2x2 average pooling as one operation with its own first and second derivative."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from datastill.functional import _kernels, _kernels_last
from datastill.functional.fused import plainly

SHARED = 2**17  # values from which on threads share the work: 0.1 ms


class Fused(torch.autograd.Function):
    """Of x (B, C, H, W), contiguous or with channels last, and weight and bias (C,), all float32 on the CPU:
    (B, C, H // 2, W // 2) in the layout of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        images, channels, height, width = x.shape
        maps = _Maps(x)
        out = maps.empty(height // 2, width // 2)
        means, scales = x.new_empty(images, channels), x.new_empty(images, channels)
        maps.call("forward", maps.view(x), _array(weight), _array(bias), eps, maps.view(out), maps.each(means),
                  maps.each(scales))
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
        maps, each = _Maps(x), x.shape[:2]
        to_x, to_weight, to_bias = maps.empty(*x.shape[2:]), x.new_empty(each), x.new_empty(each)
        maps.call("backward", maps.view(maps.laid_out(gradient)), maps.view(x), _array(weight), _array(bias),
                  maps.each(means), maps.each(scales), maps.view(to_x), maps.each(to_weight), maps.each(to_bias))
        ctx.save_for_backward(gradient, x, weight, bias, means, scales)
        ctx.eps = eps
        return to_x, to_weight.sum(0), to_bias.sum(0)

    @staticmethod
    def backward(ctx: Any, v: Tensor, p: Tensor, q: Tensor) -> Any:
        gradient, x, weight, bias, means, scales = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative will be asked for
            return *_third(ctx, gradient, x, weight, bias, (v, p, q)), None, None, None
        maps = _Maps(x)
        to_gradient, to_x, to_weight = maps.empty(*gradient.shape[2:]), maps.empty(*x.shape[2:]), x.new_empty(x.shape[:2])
        maps.call("twice", maps.view(maps.laid_out(gradient)), maps.view(x), _array(weight), _array(bias), maps.each(means),
                  maps.each(scales), maps.view(maps.laid_out(v)), _array(p), _array(q), maps.view(to_gradient),
                  maps.view(to_x), maps.each(to_weight))
        return to_gradient, to_x, to_weight.sum(0), None, None, None, None


class Noted(torch.autograd.Function):
    """Batch normalization of x (B, C, H, W), contiguous, with these statistics (C,), and mean and biased variance (C,) of x
    itself: (output, mean, variance). Differentiable once, in x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor,
                eps: float) -> tuple[Tensor, Tensor, Tensor]:
        factor = weight / (var + eps).sqrt()
        maps, each = _Maps(x), x.shape[:2]
        out, sums, squares = maps.empty(*x.shape[2:]), x.new_empty(each), x.new_empty(each)
        maps.call("noted", maps.view(x), _array(factor), _array(bias - mean * factor), _array(mean), maps.view(out),
                  maps.each(sums), maps.each(squares))
        count = x.numel() / x.shape[1]
        away = sums.double().sum(0) / count
        found = squares.double().sum(0) / count - away.square()
        own = mean + away.to(x.dtype)
        ctx.save_for_backward(x, factor, own)
        return out, own, found.clamp(min=0).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, to_mean: Tensor, to_var: Tensor) -> Any:
        x, factor, mean = ctx.saved_tensors
        maps, count = _Maps(x), x.numel() / x.shape[1]
        slope, to_x = 2 * to_var / count, maps.empty(*x.shape[2:])
        maps.call("noted_back", maps.view(maps.laid_out(gradient)), maps.view(x), _array(factor), _array(slope),
                  _array(to_mean / count - slope * mean), maps.view(to_x))
        return to_x, None, None, None, None, None


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
    return tensor.detach().contiguous().numpy()


class _Maps:
    """The layout of x (B, C, H, W), and what the kernels for it take: planes, images times channels of them; or images with
    channels last."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.last = x, not x.is_contiguous()

    def laid_out(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=torch.channels_last if self.last else torch.contiguous_format)

    def empty(self, height: int, width: int) -> Tensor:
        """Memory for maps of this size."""
        layout = torch.channels_last if self.last else torch.contiguous_format
        return torch.empty(*self.x.shape[:2], height, width, dtype=self.x.dtype, memory_format=layout)

    def view(self, maps: Tensor) -> Any:
        """An array of maps in this layout."""
        maps = maps.detach()
        return (maps.permute(0, 2, 3, 1) if self.last else maps.view(-1, *maps.shape[2:])).numpy()

    def each(self, values: Tensor) -> Any:
        """An array of one value for each image and channel, (B, C)."""
        return (values if self.last else values.view(-1)).numpy()

    def call(self, name: str, *arrays: Any) -> None:
        """Call a kernel for all planes or images, by as many threads as torch uses."""
        kernel = getattr(_kernels_last if self.last else _kernels, name)
        whole = self.x.shape[0] * (1 if self.last else self.x.shape[1])
        count = min(whole, torch.get_num_threads()) if self.x.numel() >= SHARED else 1
        if count == 1:
            kernel(*arrays, 0, whole)
            return
        if (pool := _threads.get(os.getpid())) is None:
            pool = _threads[os.getpid()] = ThreadPoolExecutor(max(32, count), "datastill")
        (first, last), *more = pairwise(whole * number // count for number in range(count + 1))
        others: list[Future[None]] = [pool.submit(kernel, *arrays, *pair) for pair in more]
        kernel(*arrays, first, last)
        for one in others:
            one.result()


_threads: dict[int, ThreadPoolExecutor] = {}  # by process: those of a parent are not there after a fork
