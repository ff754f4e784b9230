"""A timm network, wrapped to provide the interface of ``Network``."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from datastill.errors import InputError
from datastill.nets._foreign import ForeignNetwork


class TimmNetwork(ForeignNetwork):
    """A ForeignNetwork whose feature maps are those reported by timm, as maps (B, C, H, W) already."""

    def walk(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """``embed(x)`` and the feature maps, in one pass. Maps of networks whose blocks pass on tokens, or channels last,
        are copies from which nothing leads to the features."""
        model: Any = self.features
        with sdpa_kernel(SDPBackend.MATH):
            last, found = model.forward_intermediates(x)
            features = model.forward_head(last)
        if len(found) != len(self.taps):
            raise InputError(f"timm's {type(self.features).__name__} declares {len(self.taps)} feature maps but returns "
                             f"{len(found)}; choose another network")
        return features.flatten(1), dict(zip(self.taps, found, strict=True))
