"""2x2 average pooling that is also fast on a CPU, including its first and second derivatives."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AveragePool(nn.Module):
    """Mean of 2x2 squares, (B, C, H, W) -> (B, C, H // 2, W // 2).

    On a CPU it is computed as a depthwise convolution with 1/4. The result equals that of ``avg_pool2d``, whose CPU code is
    not vectorized for this layout and took a third of a whole DM iteration (``benchmarks/bench.py``).
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if x.device.type != "cpu" else _Mean.apply(x)


class _Mean(torch.autograd.Function):
    """The means. Pooling is linear, so it is also the derivative of its own backward. To differentiate the convolution
    twice, as gradient matching needs, torch would loop over the channels one by one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return F.conv2d(x, _quarters(x), stride=2, groups=x.shape[-3])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.size = inputs[0].shape[-2:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Spread.apply(gradient, *ctx.size)


class _Spread(torch.autograd.Function):
    """A quarter of each value to the four pixels of its square; a leftover row or column gets 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, height: int, width: int) -> Tensor:
        over = (height - 2 * x.shape[-2], width - 2 * x.shape[-1])
        if x.dtype != torch.float32:  # depthwise transposed convolutions are very slow for other dtypes
            squares = (x * 0.25)[..., :, None, :, None].expand(*x.shape[:-1], 2, x.shape[-1], 2)
            return F.pad(squares.reshape(*x.shape[:-2], 2 * x.shape[-2], 2 * x.shape[-1]), (0, over[1], 0, over[0]))
        return F.conv_transpose2d(x, _quarters(x), stride=2, groups=x.shape[-3], output_padding=over)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Mean.apply(gradient), None, None


def _quarters(x: Tensor) -> Tensor:
    return x.new_full((x.shape[-3], 1, 2, 2), 0.25)
