"""Two hidden layers."""

from __future__ import annotations

import math
from collections import OrderedDict

from pydantic import Field
from torch import nn

from datastill.nets.network import Architecture, Network, Shape


class MLP(Architecture):
    """Flatten, two hidden ReLU layers of ``width``, linear. Feature maps: ``hidden1``, ``hidden2``, each (B, width)."""

    width: int = Field(default=128, ge=1, le=16384)

    def build(self, shape: Shape, classes: int) -> Network:
        layers = OrderedDict(flatten=nn.Flatten(), fc1=nn.Linear(math.prod(shape), self.width), act1=nn.ReLU(),
                             fc2=nn.Linear(self.width, self.width), act2=nn.ReLU())
        return Network(nn.Sequential(layers), nn.Linear(self.width, classes), {"hidden1": "act1", "hidden2": "act2"})
