"""AlexNet for small images: five convolutions, no hidden linear layer."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from pydantic import Field

from datastill.late import nn
from datastill.nets.network import Architecture, Norm, Shape, does_not_fit, norm_layer

if TYPE_CHECKING:
    from datastill.nets._network import Network

CHANNELS = (128, 192, 256, 192, 192)
KERNELS = (5, 5, 3, 3, 3)
POOLED = (1, 2, 5)


class AlexNet(Architecture):
    """Five blocks of [convolution, norm, ReLU], 2x2 max pooling after the first, second and fifth, then linear.

    Krizhevsky et al. 2012 in the small variant of Zhao et al. 2021 (with norm "batch", AlexNetBN): kernels 5, 5, 3, 3, 3.
    ``width`` is the number of channels of the first convolution; the others scale in proportion, 128:192:256:192:192.
    With one channel the first convolution pads by 4, so that 28 px become 32. Feature maps: ``block1`` ... ``block5``
    after the activation, before pooling.
    """

    width: int = Field(default=128, ge=1, le=16384)
    norm: Norm = "none"

    def build(self, shape: Shape, classes: int) -> Network:
        from datastill.nets._network import Network

        channels, height, width = shape
        wider = 4 if channels == 1 else 0
        height, width = height + wider, width + wider
        if min(height, width) < 2 ** len(POOLED):
            raise does_not_fit("alexnet", shape, f"it needs at least {2 ** len(POOLED) - wider} pixels per side; "
                               "use mlp or convnet")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for block, (share, kernel) in enumerate(zip(CHANNELS, KERNELS, strict=True), start=1):
            after = max(1, round(self.width * share / CHANNELS[0]))
            padding = kernel // 2 + (wider // 2 if block == 1 else 0)
            layers[f"conv{block}"] = nn.Conv2d(channels, after, kernel, padding=padding)
            if (norm := norm_layer(self.norm, after, height, width)) is not None:
                layers[f"norm{block}"] = norm
            layers[f"act{block}"] = nn.ReLU()
            if block in POOLED:
                layers[f"pool{block}"] = nn.MaxPool2d(2)
                height, width = height // 2, width // 2
            channels = after
        taps = {f"block{block}": f"act{block}" for block in range(1, 6)}
        return Network(nn.Sequential(layers), nn.Linear(channels * height * width, classes), taps)
