"""Running statistics of batch normalization, compared with the statistics of a batch of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from datastill.errors import InputError
from datastill.functional.fused import fuses
from datastill.late import nn, torch

if TYPE_CHECKING:
    from torch import Tensor


class Statistics(NamedTuple):
    """Of one layer's input, each (C,): running mean and variance from training, mean and variance of this batch. eps: what
    the layer adds to variances."""

    running_mean: Tensor
    running_var: Tensor
    mean: Tensor
    var: Tensor
    eps: float = 1e-5


def normalizations(network: nn.Module) -> dict[str, nn.Module]:
    """The batch normalization layers that have running statistics, by name, in network order."""
    return {name: module for name, module in network.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None}


class OfClasses(NamedTuple):
    """Of one layer's input: mean and variance of the images of each class, (K, C)."""

    mean: Tensor
    var: Tensor


class Watch:
    """Notes the statistics of every batch normalization layer, by name, when the network is called inside ``with watch``;
    differentiable. Outside of the block the network is as it was.

    For a layer's input z (B, C, ...) with n values in channel c: mean_c = sum z_c / n, var_c = sum (z_c - mean_c)^2 / n,
    biased, as in DeepInversion (Yin et al. 2020, eq. 4). Torch's running variance averages unbiased variances, which are
    n / (n - 1) times as large.

    once: differentiable once, with respect to images alone; then a layer and its statistics are one operation where there
    are compiled kernels.

    >>> net = nn.Sequential(nn.BatchNorm2d(3)).eval()
    >>> with Watch(net) as found:
    ...     _ = net(torch.zeros(2, 3, 4, 4))
    >>> statistics_distance(found)
    tensor(1.7321)
    """

    def __init__(self, network: nn.Module, once: bool = False) -> None:
        self.layers, self.once = normalizations(network), once

    def __enter__(self) -> dict[str, Statistics]:
        found: dict[str, Statistics] = {}
        for name, layer in self.layers.items():
            layer.forward = self._noting(name, layer, layer.forward, found)
        return found

    def __exit__(self, *error: object) -> None:
        for layer in self.layers.values():
            del layer.forward

    def _noting(self, name: str, layer: Any, plain: Callable[[Tensor], Tensor],
                found: dict[str, Statistics]) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            there = (layer.running_mean, layer.running_var)
            if self.once and _fits(layer, x):
                from datastill.functional._fused import Noted

                y, mean, var = Noted.apply(x, layer.weight.detach(), layer.bias.detach(), *there, layer.eps)
                found[name] = Statistics(*there, mean, var, layer.eps)
                out: Tensor = y
                return out
            values = x.float() if x.element_size() < 4 else x  # means of bfloat16 would be coarse
            var, mean = torch.var_mean(values, [d for d in range(values.dim()) if d != 1], correction=0)
            found[name] = Statistics(*there, mean, var, layer.eps)
            return plain(x)
        return forward


def _fits(layer: Any, x: Tensor) -> bool:
    """Whether the fused kernels can take this layer and its input."""
    return (not layer.training and layer.weight is not None and layer.bias is not None
            and not (layer.weight.requires_grad or layer.bias.requires_grad) and layer.running_var is not None
            and x.is_contiguous() and fuses(x, layer.weight, layer.bias))


def statistics(network: nn.Module, x: Tensor) -> dict[str, Statistics]:
    """Statistics of every batch normalization layer for one pass of ``x`` (B, C, H, W), by name; differentiable in x (see
    ``Watch``). The network is called in its current mode; in training mode its running statistics change."""
    with Watch(network) as found:
        network(x)
    return found


def layer_distances(found: Mapping[str, Statistics], scale_free: bool = False) -> Tensor:
    """Of every layer the distances of its means and of its variances from the running ones, (2, L).

    |mean - running_mean| and |var - running_var|, Euclidean norms over channels, not squared (DeepInversion; SRe2L, Yin et
    al. 2023). Their size is not a property of the network's function: scaling a layer's input and undoing it behind the
    normalization scales the first by s and the second by s^2. ``scale_free`` (ours) measures in the units of the layer,
    |(mean - running_mean) / sqrt(running_var + eps)| and |(var - running_var) / (running_var + eps)|. Raises InputError if
    there are no layers.
    """
    if not found:
        raise InputError("no statistics were given; expected those of a network with batch normalization")
    means, variances = [], []
    for mean_there, var_there, mean, var, eps in found.values():
        off, wide = mean - mean_there, var - var_there
        if scale_free:
            off, wide = off / (var_there + eps).sqrt(), wide / (var_there + eps)
        means.append(torch.linalg.vector_norm(off))
        variances.append(torch.linalg.vector_norm(wide))
    return torch.stack([torch.stack(means), torch.stack(variances)])


def statistics_distance(found: Mapping[str, Statistics], first: float = 1.0, scale_free: bool = False) -> Tensor:
    """The sum of ``layer_distances``, a scalar, with that of the first layer times ``first`` (SRe2L: 10).

    >>> there, here = torch.zeros(3), torch.ones(3)
    >>> statistics_distance({"a": Statistics(there, here, here, here)}, first=10.0)
    tensor(17.3205)
    """
    layers = layer_distances(found, scale_free).sum(0)
    return layers.sum() + (first - 1) * layers[0]
