"""The block of the thin ResNets for CIFAR."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut without parameters, (B, before, H, W) -> (B, after, H / stride, W / stride)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()
        self.stride, self.more = stride, after - before

    def forward(self, x: Tensor) -> Tensor:
        found = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        if self.stride > 1 or self.more:
            x = F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return self.act2(found + x)
