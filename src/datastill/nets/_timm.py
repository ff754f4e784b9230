"""A timm network, wrapped to provide the interface of ``Network``."""

from __future__ import annotations

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from datastill.errors import InputError
from datastill.nets._foreign import ForeignNetwork


class TimmNetwork(ForeignNetwork):
    """A ForeignNetwork whose feature maps are those reported by timm."""

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps by tap name in order of depth, each (B, C, H, W)."""
        with sdpa_kernel(SDPBackend.MATH):
            found = self.features.forward_intermediates(x, intermediates_only=True)  # type: ignore[operator]
        if len(found) != len(self.taps):
            raise InputError(f"timm's {type(self.features).__name__} declares {len(self.taps)} feature maps but returns "
                             f"{len(found)}; choose another network")
        return dict(zip(self.taps, found, strict=True))
