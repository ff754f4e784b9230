"""The stages of a ConvNet, with what follows a convolution computed in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from datastill.functional.fused import fuses, normalized_pool
from datastill.nets._pool import AveragePool


class Blocks(nn.Sequential):
    """Stages one after the other. Instance normalization, ReLU and average pooling in a row are one operation on a CPU
    (``functional.fused``), unless a hook wants to see what is between them."""

    def forward(self, x: Tensor) -> Tensor:
        stages, number = list(self), 0
        while number < len(stages):
            norm = self._normalization(stages[number:number + 3])
            if norm is not None and fuses(x, norm.weight, norm.bias):
                x = normalized_pool(x, norm.weight, norm.bias, norm.eps)
                number += 3
            else:
                x = stages[number](x)
                number += 1
        return x

    @staticmethod
    def _normalization(stages: Sequence[nn.Module]) -> nn.GroupNorm | None:
        """The first of these three if they are instance normalization with weights, ReLU and average pooling, and no hook is
        on them."""
        if [type(one) for one in stages] != [nn.GroupNorm, nn.ReLU, AveragePool] or _has_any_global_hook():
            return None
        norm = stages[0]
        assert isinstance(norm, nn.GroupNorm)
        hooked = any(one._forward_hooks or one._forward_pre_hooks or one._backward_hooks or one._backward_pre_hooks
                     for one in stages)
        return norm if norm.num_groups == norm.num_channels and norm.affine and not hooked else None
