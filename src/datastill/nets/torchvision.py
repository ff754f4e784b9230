"""The classification networks of torchvision, by name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from pydantic import model_validator

from datastill.late import nn
from datastill.nets.network import Architecture, Shape, Stem
from datastill.tables import nearest

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.nets._network import Network


def _tokens_as_grid(tokens: Tensor) -> Tensor:
    """(B, 1 + rows * columns, C) -> (B, C, rows, columns) for square images."""
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (math.isqrt(tokens.shape[1] - 1), -1))


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


class Series(NamedTuple):
    """What networks with the same name prefix have in common.

    maps, of: feature maps are the outputs of the modules whose path matches ``maps`` and whose class is ``torch.nn.<of>``.
    arrange: converts such an output to a map (B, C, H, W).
    small: whether the stem can be changed for small images; pool: the max pooling after the stem, which is then dropped.
    attends: whether its blocks attend over all patches.
    """

    maps: str
    of: str = "Module"
    arrange: Callable[[Tensor], Tensor] | None = None
    small: bool = False
    pool: str = ""
    attends: bool = False


RESNET = Series(r"layer\d", small=True, pool="maxpool")
SERIES = {
    "resnet": RESNET, "resnext": RESNET, "wide_resnet": RESNET,
    "densenet": Series(r"features\.denseblock\d", small=True, pool="features.pool0"),
    "shufflenet": Series(r"stage\d|conv5", small=True, pool="maxpool"),
    "googlenet": Series(r"inception\w+", small=True, pool="maxpool1"),
    "regnet": Series(r"trunk_output\.block\d", small=True),
    "mobilenet": Series(r"features\.\d+", small=True),
    "efficientnet": Series(r"features\.\d+", small=True),
    "mnasnet": Series(r"layers\.\d+", of="Sequential", small=True),
    "alexnet": Series(r"features\.\d+", of="ReLU"),
    "vgg": Series(r"features\.\d+", of="ReLU"),
    "inception": Series(r"Mixed_\w+"),
    "maxvit": Series(r"blocks\.\d"),
    "convnext": Series(r"features\.[1357]"),
    "swin": Series(r"features\.[1357]", arrange=_channels_first),
    "vit": Series(r"encoder\.layers\.\w+", arrange=_tokens_as_grid, attends=True),
}


class Torchvision(Architecture):
    """``torchvision:model=resnet50``: a classification network of torchvision, with torchvision's random initialization.

    For pre-trained weights use a pool of teachers (``pretrained``). Any number of channels; no dropout and no stochastic
    depth, so that an iteration stays a function of its stream. ``stem``: the networks are designed for 224 px, and most
    halve the sides twice; "small" makes the first convolution 3x3 with stride 1 and drops the max pooling after it, in
    ResNet, ResNeXt, Wide ResNet, DenseNet, ShuffleNet, GoogLeNet, RegNet, MobileNet, EfficientNet and MNASNet; "auto" does
    this up to 64 px. AlexNet, VGG, Inception, ConvNeXt, Swin, ViT and MaxViT are never changed, and fit fewer sizes.
    SqueezeNet has no linear classifier and is not supported. Feature maps are named after torchvision's modules: ``layer1``
    ... ``layer4`` of a ResNet.
    """

    bare: ClassVar[str] = "model"

    model: str = "resnet18"
    stem: Stem = "auto"

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if (self.model, self.stem) == ("resnet18", "auto"):
            return self  # known to exist, and a common default: importing torchvision takes seconds
        from torchvision import models

        known = [name for name in models.list_models(module=models) if _series(name)]
        if self.model not in known:
            raise ValueError(f"torchvision has no classification network model={self.model!r}{nearest(self.model, known)}")
        if self.stem == "small" and not SERIES[_series(self.model)].small:
            raise ValueError(f"stem=small is not supported for model={self.model}; use stem=auto")
        return self

    def build(self, shape: Shape, classes: int) -> Network:
        from datastill.nets._foreign import fitted

        return fitted(f"torchvision:model={self.model}", shape, lambda size: self._made(size, classes))

    def _made(self, shape: Shape, classes: int) -> Network:
        from torchvision import models

        from datastill.nets import _foreign

        series = SERIES[_series(self.model)]
        model = _foreign.settle(models.get_model(self.model, weights=None, num_classes=classes, **self._options(shape)))
        small = series.small and _foreign.wants_small(self.stem, shape)
        _change_stem(model, shape[0], small)
        if small and series.pool:
            model.set_submodule(series.pool, nn.Identity())
        path, classifier = [item for item in model.named_modules() if isinstance(item[1], nn.Linear)][-1]
        model.set_submodule(path, nn.Identity())
        taps = {name: name for name, module in model.named_modules()
                if re.fullmatch(series.maps, name) and isinstance(module, getattr(nn, series.of))}
        network = _foreign.ForeignNetwork(model, classifier, taps, series.arrange, path, series.attends,
                                          channels_last=series.arrange is _channels_first)
        _foreign.count_features(self, network, shape)  # raises if the image size does not fit
        return network

    def _options(self, shape: Shape) -> dict[str, Any]:
        """Arguments the constructor needs."""
        match _series(self.model):
            case "googlenet" | "inception":
                return {"aux_logits": False, "init_weights": True}
            case "vit":
                return {"image_size": shape[1]}
            case "maxvit":
                return {"input_size": shape[1:]}
        return {}


def _series(name: str) -> str:
    """The key of SERIES that this name starts with, or ""."""
    return next((start for start in SERIES if name.startswith(start)), "")


def _change_stem(model: nn.Module, channels: int, small: bool) -> None:
    """Replace the first convolution by one for this number of channels, 3x3 with stride 1 if ``small``."""
    path, conv = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    if small or conv.in_channels != channels:
        kernel, stride, padding = (3, 1, 1) if small else (conv.kernel_size, conv.stride, conv.padding)
        model.set_submodule(path, nn.Conv2d(channels, conv.out_channels, kernel, stride, padding,  # type: ignore[arg-type]
                                            bias=conv.bias is not None))
