"""A network of timm, made to give what a Network gives."""

from __future__ import annotations

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from datastill.errors import InputError
from datastill.nets._foreign import ForeignNetwork


class TimmNetwork(ForeignNetwork):
    """A ForeignNetwork whose feature maps are what timm says they are."""

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps by tap name in order of depth, each (B, C, H, W)."""
        with sdpa_kernel(SDPBackend.MATH):
            found = self.features.forward_intermediates(x, intermediates_only=True)  # type: ignore[operator]
        if len(found) != len(self.taps):
            raise InputError(f"timm's {type(self.features).__name__} names {len(self.taps)} feature maps and gives "
                             f"{len(found)}; choose another network")
        return dict(zip(self.taps, found, strict=True))
