"""Building blocks of a vision transformer."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from datastill.nets._network import Network

Pooling = Literal["class", "mean"]


class TokenNetwork(Network):
    """A Network whose stages pass on tokens (B, N, D); the last ones are those of the cells of ``grid`` (rows, columns)."""

    attends = True

    def __init__(self, features: nn.Sequential, classifier: nn.Module, taps: dict[str, str],
                 grid: tuple[int, int]) -> None:
        super().__init__(features, classifier, taps)
        self.grid = grid

    def arrange(self, output: Tensor) -> Tensor:
        """Tokens (B, N, D) as a grid (B, D, rows, columns), without the class token."""
        return output[:, -math.prod(self.grid):].transpose(1, 2).unflatten(2, self.grid)


class Tokens(nn.Module):
    """Images (B, C, H, W) -> tokens (B, N, D): a class token if ``pooling`` is "class", then patches, plus positions."""

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
    """Torch's layer with twice differentiable attention: gradient matching needs it, and the fused kernels are not."""

    def forward(self, src: Tensor, *args: object, **options: object) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return super().forward(src, *args, **options)  # type: ignore[arg-type]


class Pooled(nn.Module):
    """Tokens (B, N, D) -> features (B, D): the class token, which comes first, or the mean."""

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0] if self.pooling == "class" else tokens.mean(1)
