"""ResNet-18 with a stem for small images."""

from __future__ import annotations

from collections import OrderedDict

from pydantic import Field
from torch import Tensor, nn

from datastill.nets.network import Architecture, Network, Norm, Shape, does_not_fit, norm_layer


class ResNet18(Architecture):
    """Four stages of two basic blocks (He et al. 2016) behind a 3x3 stem without pooling; average over the last map.

    ``width`` is the number of channels of the first stage; the others have 2, 4 and 8 times as many.
    Feature maps: ``stem``, ``layer1`` ... ``layer4``.
    """

    width: int = Field(default=64, ge=1)
    norm: Norm = "instance"

    def build(self, shape: Shape, classes: int) -> Network:
        channels, height, width = shape
        smallest = -(-min(height, width) // 8)
        if self.norm in ("instance", "layer", "group") and smallest < 2:
            raise does_not_fit("resnet18", shape, f"the last map is a single pixel, which {self.norm} normalisation "
                               "sets to a constant; it needs more than 8 pixels a side, or norm=batch")
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=_conv3(channels, self.width, 1))
        _add_norm(layers, "norm1", self.norm, self.width, height, width)
        layers["act1"] = nn.ReLU()
        before = self.width
        for stage in range(4):
            stride, after = (1 if stage == 0 else 2), self.width * 2**stage
            height, width = -(-height // stride), -(-width // stride)
            layers[f"layer{stage + 1}"] = nn.Sequential(
                BasicBlock(before, after, stride, self.norm, height, width),
                BasicBlock(after, after, 1, self.norm, height, width))
            before = after
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        taps = {"stem": "act1", **{f"layer{i}": f"layer{i}" for i in range(1, 5)}}
        return Network(nn.Sequential(layers), nn.Linear(before, classes), taps)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int, norm: Norm, height: int, width: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=_conv3(before, after, stride))
        _add_norm(layers, "norm1", norm, after, height, width)
        layers["act1"] = nn.ReLU()
        layers["conv2"] = _conv3(after, after, 1)
        _add_norm(layers, "norm2", norm, after, height, width)
        self.residual = nn.Sequential(layers)
        shortcut: OrderedDict[str, nn.Module] = OrderedDict()
        if stride != 1 or before != after:
            shortcut["conv"] = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            _add_norm(shortcut, "norm", norm, after, height, width)
        self.shortcut = nn.Sequential(shortcut)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.residual(x) + self.shortcut(x))


def _conv3(before: int, after: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)


def _add_norm(layers: OrderedDict[str, nn.Module], name: str, norm: Norm, channels: int, height: int, width: int) -> None:
    if (layer := norm_layer(norm, channels, height, width)) is not None:
        layers[name] = layer
