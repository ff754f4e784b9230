"""The networks of timm (PyTorch Image Models), by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import model_validator

from datastill.errors import InputError
from datastill.extras import install
from datastill.late import nn
from datastill.nets.network import Architecture, Shape, Stem
from datastill.tables import near

if TYPE_CHECKING:
    from datastill.nets._network import Network

POOLS = ("maxpool", "stem.pool", "features.pool0", "features.conv1_pool")  # paths of the pooling after the stem in timm


class Timm(Architecture):
    """``timm:model=resnet50``: a network of timm (Wightman 2019) with timm's random initialization and a linear classifier.

    Needs timm: ``pip install -e '.[timm]'``. A tag after the name selects the weights in a pool of teachers
    (``pretrained``) and changes nothing else. Any number of channels; no dropout and no stochastic depth, so that an
    iteration stays a function of its stream. ``stem``:
    "small" applies to networks whose first convolution has stride 2 (ResNet and its variants, DenseNet, RegNet,
    EfficientNet, MobileNet, NFNet, RepVGG, ...): stride 1 there, 3x3 instead of a plain 7x7, and no max pooling after it;
    "auto" does this up to 64 px. Networks that split images into patches (ViT, Swin, ConvNeXt, mixers, ...) keep their stem,
    and those with a fixed image size are created for the size of the images. Feature maps are those of timm's
    ``forward_intermediates``, named after its modules: ``act1``, ``layer1`` ... ``layer4`` of a ResNet.
    """

    bare: ClassVar[str] = "model"

    model: str = "resnet18"
    stem: Stem = "auto"

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        timm = _library()
        if timm is not None and not timm.is_model(self.model):  # readable without timm
            advice = near(self.model, timm.list_models()) or "; timm.list_models() lists them"
            raise ValueError(f"timm has no network model={self.model!r}{advice}")
        return self

    def build(self, shape: Shape, classes: int) -> Network:
        if _library() is None:
            raise InputError(f"network timm:model={self.model} needs timm, which is not installed; "
                             f"{install('timm')}")
        from datastill.nets._foreign import fitted

        return fitted(f"timm:model={self.model}", shape, lambda size: self._made(size, classes))

    def _made(self, shape: Shape, classes: int) -> Network:
        from datastill.nets import _foreign
        from datastill.nets._timm import TimmNetwork

        timm = _library()
        config = timm.get_pretrained_cfg(self.model) or timm.models.PretrainedCfg()
        sized = {"img_size": shape[1:]} if config.fixed_input_size else {}
        model = _foreign.settle(timm.create_model(self.model, pretrained=False, num_classes=0, in_chans=shape[0], **sized))
        shrunk = not sized and _foreign.wants_small(self.stem, shape) and _shrink_stem(model, config.first_conv)
        if self.stem == "small" and not shrunk:
            raise InputError(f"network timm:model={self.model} has no stem that can be changed for small images; "
                             "use stem=auto")
        taps = {info["module"]: info["module"] for info in model.feature_info}  # type: ignore[union-attr]
        network = TimmNetwork(model, nn.Identity(), taps, classifier_path=str(config.classifier or ""),
                              attends=isinstance(model, timm.models.VisionTransformer),
                              channels_last=getattr(model, "output_fmt", "NCHW") == "NHWC")
        network.classifier = nn.Linear(_foreign.count_features(self, network, shape), classes)
        return network


def _library() -> Any:
    """timm, or None if it is not installed."""
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError:
        return None


def _shrink_stem(model: nn.Module, first: Any) -> bool:
    """Set stride 1 in the stem's ``first`` convolutions (a path, or several in parallel) and drop the pooling after them.

    Applies only if they have stride 2; returns whether they do.
    """
    paths = [first] if isinstance(first, str) else list(first or [])
    convs = {path: model.get_submodule(path) for path in paths}
    if not convs or any(getattr(conv, "stride", None) != (2, 2) for conv in convs.values()):
        return False
    for path, conv in convs.items():
        conv.stride = (1, 1)  # type: ignore[assignment]
        if type(conv) is nn.Conv2d and conv.kernel_size == (7, 7):
            smaller = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None)
            model.set_submodule(path, smaller)
    names = dict(model.named_modules())
    for path in set(POOLS) & set(names):
        model.set_submodule(path, nn.Identity())
    return True
