"""LeNet-5 with ReLU and max pooling."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from pydantic import Field

from datastill.late import nn
from datastill.nets.network import Architecture, Shape, does_not_fit

if TYPE_CHECKING:
    from datastill.nets._network import Network


class LeNet(Architecture):
    """Two 5x5 convolutions with max pooling, two hidden layers (LeCun et al. 1998, in the ReLU variant used in the field).

    ``width`` is the number of channels of the first convolution; the other layers scale in proportion, 6:16:120:84.
    With one channel the first convolution pads by 2. Feature maps: ``block1``, ``block2`` before pooling.
    """

    width: int = Field(default=6, ge=1, le=16384)

    def build(self, shape: Shape, classes: int) -> Network:
        from datastill.nets._network import Network

        channels, *sides = shape
        second, third, fourth = (round(self.width * n / 6) for n in (16, 120, 84))
        padding = 2 if channels == 1 else 0
        after = [((side + 2 * padding - 4) // 2 - 4) // 2 for side in sides]
        if min(after) < 1:
            raise does_not_fit("lenet", shape, f"it needs at least {12 if channels == 1 else 16} pixels per side; "
                               "use mlp or convnet")
        layers = OrderedDict(
            conv1=nn.Conv2d(channels, self.width, 5, padding=padding), act1=nn.ReLU(), pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(self.width, second, 5), act2=nn.ReLU(), pool2=nn.MaxPool2d(2), flatten=nn.Flatten(),
            fc1=nn.Linear(second * after[0] * after[1], third), act3=nn.ReLU(),
            fc2=nn.Linear(third, fourth), act4=nn.ReLU())
        return Network(nn.Sequential(layers), nn.Linear(fourth, classes), {"block1": "act1", "block2": "act2"})
