"""Running statistics of batch normalization, compared with the statistics of a batch of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from datastill.late import nn, torch

if TYPE_CHECKING:
    from torch import Tensor


class Statistics(NamedTuple):
    """Of one layer's input, each (C,): running mean and variance from training, mean and variance of this batch."""

    running_mean: Tensor
    running_var: Tensor
    mean: Tensor
    var: Tensor


def normalizations(network: nn.Module) -> dict[str, nn.Module]:
    """The batch normalization layers that have running statistics, by name, in network order."""
    return {name: module for name, module in network.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None}


def statistics(network: nn.Module, x: Tensor) -> dict[str, Statistics]:
    """Statistics of every batch normalization layer for one pass of ``x`` (B, C, H, W), by name; differentiable in x.

    For a layer's input z (B, C, ...) with n values in channel c: mean_c = sum z_c / n, var_c = sum (z_c - mean_c)^2 / n,
    biased, as in DeepInversion (Yin et al. 2020, eq. 4), whose loss is the sum over layers of |mean - running_mean| +
    |var - running_var|. Torch's running variance averages unbiased variances, which are n / (n - 1) times as large. The
    network is called in its current mode; in training mode its running statistics change.
    """
    found: dict[str, Statistics] = {}

    def note(name: str) -> Callable[[Any, tuple[Tensor, ...]], None]:
        def hook(module: Any, inputs: tuple[Tensor, ...]) -> None:
            var, mean = torch.var_mean(inputs[0], [d for d in range(inputs[0].dim()) if d != 1], correction=0)
            found[name] = Statistics(module.running_mean, module.running_var, mean, var)
        return hook

    hooks = [module.register_forward_pre_hook(note(name)) for name, module in normalizations(network).items()]
    try:
        network(x)
    finally:
        for handle in hooks:
            handle.remove()
    return found
