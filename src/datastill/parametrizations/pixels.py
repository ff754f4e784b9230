"""The images themselves are learned."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from datastill.synthetic import Parametrization


class Pixels(Parametrization):
    """Every pixel is a parameter, in normalized space, not clamped (as in DC, DSA, DM, MTT)."""

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        return {"pixels": images}

    def decode(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return parameters["pixels"]
