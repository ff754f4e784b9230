"""Networks of other libraries, wrapped to provide the interface of ``Network``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from datastill.digest import digest
from datastill.nets._network import Network
from datastill.nets.network import Architecture, Shape, Stem, does_not_fit

USUAL = (32, 64, 96, 128, 224, 256)  # pixels per side
MISFITS = (RuntimeError, ValueError, AssertionError)  # what other libraries raise if an image size does not fit


class ForeignNetwork(Network):
    """A Network around any module that turns images into features; ``taps`` names its submodules by dotted path.

    ``classifier_path`` is the path of the classifier in the library's module, so that weights under the library's names can
    be loaded. ``arranged`` converts a submodule's output to a map (B, C, H, W) if it is not one. Attention uses the math
    backend: the fused kernels cannot be differentiated twice, which gradient matching needs.
    """

    def __init__(self, features: nn.Module, classifier: nn.Module, taps: Mapping[str, str],
                 arranged: Callable[[Tensor], Tensor] | None = None, classifier_path: str = "",
                 attends: bool = False, channels_last: bool = False) -> None:
        super().__init__(features, classifier, taps)
        self.arranged = arranged
        self.classifier_path = classifier_path
        self.attends = attends
        self.channels_last = channels_last

    def embed(self, x: Tensor) -> Tensor:
        """Flattened features before the classifier, (B, D)."""
        with sdpa_kernel(SDPBackend.MATH):
            return super().embed(x)

    def arrange(self, output: Tensor) -> Tensor:
        """A submodule's output as a map (B, C, H, W)."""
        return self.arranged(output) if self.arranged else output

    def walk(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """``embed(x)`` and the outputs of the tapped submodules, in one pass."""
        found: dict[str, Tensor] = {}

        def keep(tap: str) -> Callable[[nn.Module, object, Tensor], None]:
            return lambda module, inputs, output: found.__setitem__(tap, output)

        with ExitStack() as hooks:
            for tap, path in self.taps.items():
                hooks.callback(self.features.get_submodule(path).register_forward_hook(keep(tap)).remove)
            return self.embed(x), found


def wants_small(stem: Stem, shape: Shape) -> bool:
    """Whether to use a stem for small images. "auto" does up to 64 px, where a stem designed for 224 px discards most of the
    image."""
    return stem == "small" or (stem == "auto" and max(shape[1:]) <= 64)


def settle(model: nn.Module) -> nn.Module:
    """The model without dropout and stochastic depth, which draw from the global generator, and without in-place
    operations, which would overwrite feature maps."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0  # type: ignore[assignment]
        for switch, off in (("drop_prob", 0.0), ("drop_rate", 0.0), ("inplace", False)):
            if getattr(module, switch, off) != off:
                setattr(module, switch, off)
    return model


_features: dict[tuple[str, Shape], int] = {}


def count_features(architecture: Architecture, network: ForeignNetwork, shape: Shape) -> int:
    """Number of features D of the network; measured with a forward pass once per description and image size.

    Raises whatever the network raises if the image size does not fit.
    """
    key = (digest(architecture), shape)
    if key not in _features:
        x = torch.zeros(1, *shape, device=next(network.parameters()).device)
        network.eval()
        with torch.no_grad():
            network.maps(x)
            _features[key] = network.embed(x).shape[1]
        network.train()
    return _features[key]


def fitted(name: str, shape: Shape, build: Callable[[Shape], Network]) -> Network:
    """``build(shape)``. If the image size does not fit, raises InputError that lists common sizes that do."""
    try:
        return build(shape)
    except MISFITS as error:
        reason = str(error).partition("\n")[0].rstrip(".!") or type(error).__name__
    fitting = [str(side) for side in USUAL if _fits((shape[0], side, side), build)]
    raise does_not_fit(name, shape, f"{reason}; common sizes that fit (pixels per side): {', '.join(fitting) or 'none'}")


def _fits(shape: Shape, build: Callable[[Shape], Network]) -> bool:
    try:
        with torch.device("meta"):
            build(shape)
    except MISFITS:
        return False
    return True
