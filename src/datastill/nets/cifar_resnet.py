"""The thin ResNets that He et al. 2016 designed for CIFAR."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from datastill.late import nn
from datastill.nets.network import Architecture, Shape, does_not_fit

if TYPE_CHECKING:
    from datastill.nets._network import Network


class CifarResNet(Architecture):
    """ResNet-20, 32, 44, 56 and 110 (He et al. 2016, section 4.2): a 3x3 stem and three stages of (depth - 2) / 6 basic
    blocks with 16, 32 and 64 channels, batch normalization, global average pooling. 0.27 to 1.7 million parameters.

    Shortcuts have no parameters where the shape changes (option A): every second row and column, channels of zeros on both
    sides. Layers are named as in most public implementations, so published weights can be read (``pretrained``):
    ``pool={kind="pretrained", networks=["resnet56"], files=["resnet56.th"]}``. ``width``: channels of the first stage.
    Feature maps: ``stem``, ``layer1``, ``layer2``, ``layer3``.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {f"resnet{depth}": {"depth": depth} for depth in (20, 32, 44, 56, 110)}

    depth: Literal[20, 32, 44, 56, 110] = 20
    width: int = Field(default=16, ge=1, le=16384)

    def build(self, shape: Shape, classes: int) -> Network:
        from datastill.nets._cifar_resnet import Block
        from datastill.nets._network import Network

        if min(shape[1:]) < 5:
            raise does_not_fit("cifar_resnet", shape, "it needs at least 5 pixels per side")
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(shape[0], self.width, 3, padding=1, bias=False), bn1=nn.BatchNorm2d(self.width), act1=nn.ReLU())
        before = self.width
        for stage in range(3):
            after = self.width * 2**stage
            blocks = [Block(before if number == 0 else after, after, 2 if stage and number == 0 else 1)
                      for number in range((self.depth - 2) // 6)]
            layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
            before = after
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        taps = {"stem": "act1", **{f"layer{i}": f"layer{i}" for i in (1, 2, 3)}}
        network = Network(nn.Sequential(layers), nn.Linear(before, classes), taps)
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)
        vars(network)["classifier_path"] = "linear"  # its name in published weights
        return network
