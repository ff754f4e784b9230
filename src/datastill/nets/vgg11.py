"""VGG-11 without hidden linear layers."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from pydantic import Field

from datastill.late import nn
from datastill.nets.network import Architecture, Norm, Shape, does_not_fit, norm_layer

if TYPE_CHECKING:
    from datastill.nets._network import Network

STAGES = ((1, 1), (1, 2), (2, 4), (2, 8), (2, 8))  # (convolutions, channels relative to the first stage)


class VGG11(Architecture):
    """Five stages of one or two [3x3 convolution, norm, ReLU] and 2x2 max pooling, then linear.

    Simonyan & Zisserman 2015 in the variant of Zhao et al. 2021 (with norm "batch", VGG11BN). ``width`` is the number of
    channels of the first stage; the others have 2, 4, 8 and 8 times as many. With one channel the first convolution
    pads by 3, so that 28 px become 32. Feature maps: ``stage1`` ... ``stage5`` after the activation, before pooling.
    """

    width: int = Field(default=64, ge=1, le=16384)
    norm: Norm = "instance"

    def build(self, shape: Shape, classes: int) -> Network:
        from datastill.nets._network import Network

        channels, height, width = shape
        wider = 4 if channels == 1 else 0
        height, width = height + wider, width + wider
        if min(height, width) < 2 ** len(STAGES):
            raise does_not_fit("vgg11", shape, f"it needs at least {2 ** len(STAGES) - wider} pixels per side; "
                               "use convnet or mlp")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for stage, (depth, times) in enumerate(STAGES, start=1):
            after = self.width * times
            for i in range(1, depth + 1):
                padding = 1 + (0 if layers else wider // 2)
                layers[f"conv{stage}_{i}"] = nn.Conv2d(channels, after, 3, padding=padding)
                if (norm := norm_layer(self.norm, after, height, width)) is not None:
                    layers[f"norm{stage}_{i}"] = norm
                layers[f"act{stage}_{i}"] = nn.ReLU()
                channels = after
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
            height, width = height // 2, width // 2
        taps = {f"stage{stage}": f"act{stage}_{depth}" for stage, (depth, _) in enumerate(STAGES, start=1)}
        return Network(nn.Sequential(layers), nn.Linear(channels * height * width, classes), taps)
