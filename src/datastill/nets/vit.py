"""A small vision transformer for small images."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from datastill.nets.network import Architecture, Network, Shape, does_not_fit

Pooling = Literal["class", "mean"]


class ViT(Architecture):
    """Patches as tokens with learned positions, ``depth`` pre-norm transformer blocks, layer norm, linear.

    Dosovitskiy et al. 2021, in the size of DeiT-Tiny (Touvron et al. 2021) but half as deep; no dropout. ``patch`` is the
    side of a patch; 0 chooses by image size: 4 up to 32 px, 8 up to 64, 16 beyond. ``heads`` 0 gives every head 64
    channels, or the next number above that divides ``width``. Features are the class token, or with ``pooling`` "mean" the
    mean of all tokens, (B, width). Feature maps: ``block1`` ..., the grids of tokens (B, width, H / patch, W / patch).
    """

    width: int = Field(default=192, ge=1, le=16384)
    depth: int = Field(default=6, ge=1)
    heads: int = Field(default=0, ge=0)
    patch: int = Field(default=0, ge=0)
    pooling: Pooling = "class"

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.heads and self.width % self.heads:
            raise ValueError(f"heads must divide width={self.width}, got heads={self.heads}; heads=0 chooses")
        return self

    def build(self, shape: Shape, classes: int) -> Network:
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
        """The side of a patch, and (rows, columns) of patches."""
        height, width = shape[1:]
        longest = max(height, width)
        patch = self.patch or (4 if longest <= 32 else 8 if longest <= 64 else 16)
        if height % patch or width % patch:
            fitting = [p for p in range(1, min(height, width) + 1) if height % p == width % p == 0]
            raise does_not_fit("vit", shape, f"patches of {patch} pixels do not tile them; "
                               f"use patch={' or '.join(map(str, fitting))}")
        return patch, (height // patch, width // patch)


class TokenNetwork(Network):
    """A Network whose stages hand on tokens (B, N, D), one for each cell of ``grid`` (rows, columns), last."""

    def __init__(self, features: nn.Sequential, classifier: nn.Module, taps: dict[str, str],
                 grid: tuple[int, int]) -> None:
        super().__init__(features, classifier, taps)
        self.grid = grid

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Grids of tokens by tap name in order of depth, each (B, D, rows, columns), without the class token."""
        return {tap: tokens[:, -math.prod(self.grid):].transpose(1, 2).unflatten(2, self.grid)
                for tap, tokens in super().maps(x).items()}


class Tokens(nn.Module):
    """Images (B, C, H, W) -> tokens (B, N, D): patches, after a class token where the features are one, plus positions."""

    def __init__(self, channels: int, width: int, patch: int, patches: int, pooling: Pooling) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, patch, stride=patch)
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, width)) if pooling == "class" else None
        self.position = nn.Parameter(0.02 * torch.randn(1, patches + (self.first is not None), width))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.project(x).flatten(2).transpose(1, 2)
        if self.first is not None:
            tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], 1)
        return tokens + self.position


class Block(nn.TransformerEncoderLayer):
    """Torch's own, with attention that can be differentiated twice: the fused kernels cannot, and gradient matching must."""

    def forward(self, src: Tensor, *args: object, **options: object) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return super().forward(src, *args, **options)  # type: ignore[arg-type]


class Pooled(nn.Module):
    """Tokens (B, N, D) -> features (B, D): the class token, which stands first, or the mean."""

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0] if self.pooling == "class" else tokens.mean(1)
