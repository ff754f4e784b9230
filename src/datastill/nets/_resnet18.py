"""Building blocks of a ResNet."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from datastill.nets.network import Norm, norm_layer

Downsample = Literal["stride", "pool"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, which is a 1x1 convolution if the shape changes.

    (B, before, height, width) -> (B, after, *out); ``downsample`` halves the sides.
    """

    def __init__(self, before: int, after: int, height: int, width: int, norm: Norm,
                 downsample: Downsample | None = None) -> None:
        super().__init__()
        stride, pooled = 2 if downsample == "stride" else 1, downsample == "pool"
        inner = (-(-height // stride), -(-width // stride))
        self.out = (height // 2, width // 2) if pooled else inner
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=conv3(before, after, stride))
        add_norm(layers, "norm1", norm, after, *inner)
        layers["act1"] = nn.ReLU()
        if pooled:
            layers["pool"] = nn.AvgPool2d(2)
        layers["conv2"] = conv3(after, after, 1)
        add_norm(layers, "norm2", norm, after, *self.out)
        self.residual = nn.Sequential(layers)
        shortcut: OrderedDict[str, nn.Module] = OrderedDict()
        if pooled:
            # before the convolution, not after it as in the original: the same result for a quarter of the work
            shortcut["pool"] = nn.AvgPool2d(2)
        if downsample is not None or before != after:
            shortcut["conv"] = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            add_norm(shortcut, "norm", norm, after, *self.out)
        self.shortcut = nn.Sequential(shortcut)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.residual(x) + self.shortcut(x))


def conv3(before: int, after: int, stride: int) -> nn.Conv2d:
    """A 3x3 convolution without bias."""
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)


def add_norm(layers: OrderedDict[str, nn.Module], name: str, norm: Norm, channels: int, height: int, width: int) -> None:
    """Add a normalization layer, unless ``norm`` is "none"."""
    if (layer := norm_layer(norm, channels, height, width)) is not None:
        layers[name] = layer
