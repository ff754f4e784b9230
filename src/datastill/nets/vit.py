"""A small vision transformer for small images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from datastill.late import nn
from datastill.nets.network import Architecture, Shape, does_not_fit

if TYPE_CHECKING:
    from datastill.nets._network import Network

Pooling = Literal["class", "mean"]


class ViT(Architecture):
    """Patches as tokens with learned positions, ``depth`` pre-norm transformer blocks, layer norm, linear.

    Dosovitskiy et al. 2021, in the size of DeiT-Tiny (Touvron et al. 2021) but half as deep; no dropout. ``patch`` is the
    side of a patch; 0 chooses by image size: 4 up to 32 px, 8 up to 64, 16 above. ``heads`` 0 gives every head 64
    channels, or the next larger number that divides ``width``. Features are the class token, or with ``pooling`` "mean" the
    mean of all tokens, (B, width). Feature maps: ``block1`` ..., the grids of tokens (B, width, H / patch, W / patch).
    """

    width: int = Field(default=192, ge=1, le=16384)
    depth: int = Field(default=6, ge=1, le=100)
    heads: int = Field(default=0, ge=0, le=16384)
    patch: int = Field(default=0, ge=0, le=4096)
    pooling: Pooling = "class"

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.heads and self.width % self.heads:
            raise ValueError(f"heads must divide width={self.width}, got heads={self.heads}; heads=0 chooses automatically")
        return self

    def build(self, shape: Shape, classes: int) -> Network:
        from datastill.nets._vit import Block, Pooled, TokenNetwork, Tokens

        patch, grid = self._tiling(shape)
        heads = self.heads or next(h for h in range(max(1, self.width // 64), 0, -1) if self.width % h == 0)
        features = nn.Sequential()
        features.add_module("tokens", Tokens(shape[0], self.width, patch, math.prod(grid), self.pooling))
        blocks = [f"block{block}" for block in range(1, self.depth + 1)]
        for block in blocks:
            features.add_module(block, Block(self.width, heads, 4 * self.width, dropout=0.0, activation="gelu",
                                             batch_first=True, norm_first=True))
        features.add_module("norm", nn.LayerNorm(self.width))
        features.add_module("pool", Pooled(self.pooling))
        return TokenNetwork(features, nn.Linear(self.width, classes), {block: block for block in blocks}, grid)

    def _tiling(self, shape: Shape) -> tuple[int, tuple[int, int]]:
        """The side of a patch, and the number of (rows, columns) of patches."""
        height, width = shape[1:]
        longest = max(height, width)
        patch = self.patch or (4 if longest <= 32 else 8 if longest <= 64 else 16)
        if height % patch or width % patch:
            fitting = [p for p in range(1, min(height, width) + 1) if height % p == width % p == 0]
            raise does_not_fit("vit", shape, f"patches of {patch} pixels do not tile them; "
                               f"use patch={' or '.join(map(str, fitting))}")
        return patch, (height // patch, width // patch)
