"""A multilayer perceptron with two hidden layers."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

from pydantic import Field

from datastill.late import nn
from datastill.nets.network import Architecture, Shape

if TYPE_CHECKING:
    from datastill.nets._network import Network


class MLP(Architecture):
    """Flatten, two hidden ReLU layers of ``width``, linear. Feature maps: ``hidden1``, ``hidden2``, each (B, width)."""

    width: int = Field(default=128, ge=1, le=16384)

    def build(self, shape: Shape, classes: int) -> Network:
        from datastill.nets._network import Network

        layers = OrderedDict(flatten=nn.Flatten(), fc1=nn.Linear(math.prod(shape), self.width), act1=nn.ReLU(),
                             fc2=nn.Linear(self.width, self.width), act2=nn.ReLU())
        return Network(nn.Sequential(layers), nn.Linear(self.width, classes), {"hidden1": "act1", "hidden2": "act2"})
