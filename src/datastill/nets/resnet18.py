"""ResNet-18 with a stem for small images."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from datastill.late import nn
from datastill.nets.network import Architecture, Norm, Shape, does_not_fit

if TYPE_CHECKING:
    from datastill.nets._network import Network

Downsample = Literal["stride", "pool"]


class ResNet18(Architecture):
    """Four stages of two basic blocks (He et al. 2016) after a 3x3 stem without pooling; global average pooling.

    ``width`` is the number of channels of the first stage; the others have 2, 4 and 8 times as many.
    ``downsample`` halves the sides in stages 2, 3 and 4: "stride" by strided convolutions; "pool" by 2x2 average pooling
    after convolutions of stride 1, with the whole last map as features, (B, 8 width * H/8 * W/8): the ResNet18_AP of
    Zhao et al. 2021 (with norm "batch", ResNet18BN_AP). Feature maps: ``stem``, ``layer1`` ... ``layer4``.
    """

    width: int = Field(default=64, ge=1, le=16384)
    norm: Norm = "instance"
    downsample: Downsample = "stride"

    def build(self, shape: Shape, classes: int) -> Network:
        from datastill.nets._network import Network
        from datastill.nets._resnet18 import BasicBlock, add_norm, conv3

        channels, height, width = shape
        self._check(shape)
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=conv3(channels, self.width, 1))
        add_norm(layers, "norm1", self.norm, self.width, height, width)
        layers["act1"] = nn.ReLU()
        before = self.width
        for stage in range(1, 5):
            after = self.width * 2 ** (stage - 1)
            block = BasicBlock(before, after, height, width, self.norm, None if stage == 1 else self.downsample)
            height, width = block.out
            layers[f"layer{stage}"] = nn.Sequential(block, BasicBlock(after, after, height, width, self.norm))
            before = after
        if self.downsample == "stride":
            layers["pool"] = nn.AdaptiveAvgPool2d(1)
            height = width = 1
        taps = {"stem": "act1", **{f"layer{i}": f"layer{i}" for i in range(1, 5)}}
        return Network(nn.Sequential(layers), nn.Linear(before * height * width, classes), taps)

    def _check(self, shape: Shape) -> None:
        """Raises InputError if the last map has no pixels, or a single one that normalization turns into a constant."""
        pooled, normed = self.downsample == "pool", self.norm in ("instance", "layer", "group")
        last = min(side // 8 if pooled else -(-side // 8) for side in shape[1:])
        if last < 1:
            raise does_not_fit("resnet18", shape, "it needs at least 8 pixels per side, or downsample=stride")
        if normed and last < 2:
            least = "at least 16" if pooled else "more than 8"
            raise does_not_fit("resnet18", shape, f"the last map is a single pixel, which {self.norm} normalization "
                               f"turns into a constant; it needs {least} pixels per side, or norm=batch")
