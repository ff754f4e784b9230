"""2x2 average pooling that is also fast on a CPU, including its first and second derivatives."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AveragePool(nn.Module):
    """Mean of 2x2 squares, (B, C, H, W) -> (B, C, H // 2, W // 2).

    On a CPU it is computed by adding every second row and column. The result equals that of ``avg_pool2d``, whose CPU code
    is not vectorized for this layout and takes six times as long; a convolution of each channel, which we used before, takes
    1.4 times as long on one processor and more on others.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_compiling() or not x.is_contiguous():
            return F.avg_pool2d(x, 2)  # which is fast with channels last
        return _Mean.apply(x)


class _Mean(torch.autograd.Function):
    """The means. Pooling is linear, so it is also the derivative of its own backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        height, width = (size // 2 * 2 for size in x.shape[-2:])
        if x.dtype.itemsize < 4:  # sums of a short type would be rounded twice
            return F.conv2d(x, x.new_full((x.shape[-3], 1, 2, 2), 0.25), stride=2, groups=x.shape[-3])
        rows = x[..., 0:height:2, :width] + x[..., 1:height:2, :width]
        return (rows[..., 0::2] + rows[..., 1::2]).mul_(0.25)

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
        above, left = x.shape[-2:]
        quarters = x * 0.25
        found = x.new_empty(*x.shape[:-1], 2, 2 * left)  # of each row of squares the two rows of pixels
        found[..., 0, 0::2] = quarters
        found[..., 0, 1::2] = quarters
        found[..., 1, :] = found[..., 0, :]
        over = (0, width - 2 * left, 0, height - 2 * above)
        found = found.view(*x.shape[:-2], 2 * above, 2 * left)
        return F.pad(found, over) if any(over) else found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Mean.apply(gradient), None, None
