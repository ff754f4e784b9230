"""The ConvNet commonly used in the field: identical blocks of convolution, normalization, activation and pooling."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from pydantic import Field

from datastill.late import nn
from datastill.nets.network import (
    Activation,
    Architecture,
    Norm,
    Pooling,
    Shape,
    activation_layer,
    does_not_fit,
    norm_layer,
)

if TYPE_CHECKING:
    from datastill.nets._network import Network


class ConvNet(Architecture):
    """``depth`` blocks of [3x3 convolution to ``width`` channels, norm, activation, 2x2 pooling], then linear.

    Gidaris & Komodakis 2018, in the variant of Zhao et al. 2021: with one channel the first convolution pads by 3, so that
    28 px become 32. ``depth`` 0 chooses by image size: 3 up to 32 px, 4 up to 64, 5 up to 128, 6 above.
    Feature maps: ``block1`` ... after the activation, before pooling.
    """

    width: int = Field(default=128, ge=1, le=16384)
    depth: int = Field(default=0, ge=0, le=8)
    norm: Norm = "instance"
    activation: Activation = "relu"
    pooling: Pooling = "avg"

    def build(self, shape: Shape, classes: int) -> Network:
        from datastill.nets._blocks import Blocks
        from datastill.nets._network import Network
        from datastill.nets._pool import AveragePool

        channels, height, width = shape
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for block in range(1, (self.depth or _depth_for(max(height, width))) + 1):
            padding = 3 if block == 1 and channels == 1 else 1
            layers[f"conv{block}"] = nn.Conv2d(channels, self.width, 3, padding=padding)
            channels, height, width = self.width, height + 2 * padding - 2, width + 2 * padding - 2
            if self.norm in ("instance", "layer", "group") and height * width == 1:
                raise does_not_fit("convnet", shape, f"the map of block {block} is a single pixel, which {self.norm} "
                                   f"normalization turns into a constant; use {_shallower(block)}")
            if (norm := norm_layer(self.norm, channels, height, width)) is not None:
                layers[f"norm{block}"] = norm
            layers[f"act{block}"] = activation_layer(self.activation)
            if self.pooling != "none":
                layers[f"pool{block}"] = AveragePool() if self.pooling == "avg" else nn.MaxPool2d(2)
                height, width = height // 2, width // 2
                if not height * width:
                    raise does_not_fit("convnet", shape, f"nothing is left after block {block}; use {_shallower(block)}")
        taps = {name.replace("act", "block"): name for name in layers if name.startswith("act")}
        return Network(Blocks(layers), nn.Linear(channels * height * width, classes), taps)


def _shallower(block: int) -> str:
    """Advice if this block is one too many."""
    return f"depth={block - 1} or less" if block > 1 else "mlp"


def _depth_for(size: int) -> int:
    return 3 if size <= 32 else 4 if size <= 64 else 5 if size <= 128 else 6
