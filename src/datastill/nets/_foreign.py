"""Networks of other libraries, made to give what a Network gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from datastill.digest import digest
from datastill.nets._network import Network
from datastill.nets.network import Architecture, Shape, Stem, does_not_fit

USUAL = (32, 64, 96, 128, 224, 256)  # pixels a side
MISFITS = (RuntimeError, ValueError, AssertionError)  # how other libraries say that an image size does not fit


class ForeignNetwork(Network):
    """A Network around any module that turns images into features; ``taps`` names its submodules by dotted path.

    ``classifier_path`` is where the library has the classifier, so that weights by the library's names can be loaded.
    ``arrange`` turns a submodule's output into a map (B, C, H, W), where it is none. Attention is computed in the plain
    form: the fused kernels cannot be differentiated twice, and gradient matching must.
    """

    def __init__(self, features: nn.Module, classifier: nn.Module, taps: Mapping[str, str],
                 arrange: Callable[[Tensor], Tensor] | None = None, classifier_path: str = "") -> None:
        super().__init__(features, classifier, taps)
        self.arrange = arrange
        self.classifier_path = classifier_path

    def embed(self, x: Tensor) -> Tensor:
        """Flattened features before the classifier, (B, D)."""
        with sdpa_kernel(SDPBackend.MATH):
            return super().embed(x)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps by tap name in order of depth, each (B, C, H, W)."""
        found: dict[str, Tensor] = {}

        def keep(tap: str) -> Callable[[nn.Module, object, Tensor], None]:
            return lambda module, inputs, output: found.__setitem__(tap, self.arrange(output) if self.arrange else output)

        with ExitStack() as hooks:
            for tap, path in self.taps.items():
                hooks.callback(self.features.get_submodule(path).register_forward_hook(keep(tap)).remove)
            self.embed(x)
        return found


def wants_small(stem: Stem, shape: Shape) -> bool:
    """Whether the stem is to be made for small images: "auto" says so up to 64 px, where one made for 224 px throws most of
    the image away."""
    return stem == "small" or (stem == "auto" and max(shape[1:]) <= 64)


def settle(model: nn.Module) -> nn.Module:
    """The model without dropout and stochastic depth, which draw from the global generator, and with nothing in place,
    so that feature maps stay what they were."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0  # type: ignore[assignment]
        for switch, off in (("drop_prob", 0.0), ("drop_rate", 0.0), ("inplace", False)):
            if getattr(module, switch, off) != off:
                setattr(module, switch, off)
    return model


_features: dict[tuple[str, Shape], int] = {}


def count_features(architecture: Architecture, network: ForeignNetwork, shape: Shape) -> int:
    """How many features D the network gives for an image; it is tried once for each description and image size.

    Raises what the network raises where the image does not fit.
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
    """``build(shape)``. Raises InputError, which names the usual sizes that fit, where the image does not."""
    try:
        return build(shape)
    except MISFITS as error:
        reason = str(error).partition("\n")[0].rstrip(".!") or type(error).__name__
    fitting = [str(side) for side in USUAL if _fits((shape[0], side, side), build)]
    raise does_not_fit(name, shape, f"{reason}; it fits {', '.join(fitting) or 'none of the usual'} pixels a side")


def _fits(shape: Shape, build: Callable[[Shape], Network]) -> bool:
    try:
        with torch.device("meta"):
            build(shape)
    except MISFITS:
        return False
    return True
