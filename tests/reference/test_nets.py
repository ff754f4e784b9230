"""The networks against the original implementations: layer order, counts, outputs."""

import json

import pytest
import torch
from torch import nn

from datastill.description import load
from datastill.nets import Architecture
from reference.golden import FOLDER, Golden, error, fill

COUNTS = json.loads((FOLDER / "nets_params.json").read_text())["nets"]
ARCHITECTURES = {
    "convnet_d3": "convnet", "convnet_d3_1x28": "convnet", "convnet_d4_64": "convnet", "convnet_d5_128": "convnet",
    "convnet_d3_bn": "convnet:norm=batch", "convnet_d3_ln": "convnet:norm=layer", "convnet_d3_gn": "convnet:norm=group",
    "convnet_d3_none": "convnet:norm=none",
    "convnet_d2_max_swish": "convnet:depth=2,pooling=max,activation=swish,width=32",
    "lenet": "lenet", "lenet_1x28": "lenet", "mlp": "mlp", "mlp_1x28": "mlp",
    "resnet18": "resnet18", "resnet18bn": "resnet18:norm=batch", "resnet18_ap": "resnet18:downsample=pool",
    "resnet18bn_ap": "resnet18:downsample=pool,norm=batch",
    "alexnet": "alexnet", "alexnet_1x28": "alexnet", "alexnetbn": "alexnet:norm=batch",
    "vgg11": "vgg11", "vgg11_1x28": "vgg11", "vgg11bn": "vgg11:norm=batch",
}


def build(key: str) -> nn.Module:
    name, shape, classes = key.split("|")
    return load(Architecture, ARCHITECTURES[name]).build(tuple(map(int, shape.split("x"))), int(classes))


@pytest.mark.parametrize("key", COUNTS)
def test_shapes_and_count(key: str) -> None:
    with torch.device("meta"):
        net = build(key)
    # LayerNorm's weights are the one place where a tensor has more than two dimensions and is no convolution
    assert [list(p.shape) for p in net.parameters()] == COUNTS[key]["shapes"]
    assert sum(p.numel() for p in net.parameters()) == COUNTS[key]["count"]


GOLDEN = Golden("nets")
WITH_VALUES = sorted({key.split(".")[1] for key in GOLDEN.tensors})


@pytest.mark.parametrize("name", WITH_VALUES)
def test_outputs(name: str) -> None:
    x = GOLDEN[f"in.{name}.x"].double()
    key = next(k for k in COUNTS if k.startswith(f"{name}|{'x'.join(map(str, x.shape[1:]))}|"))
    net = fill(build(key).double(), GOLDEN.config["seed"])
    outputs = {k.removeprefix(f"out.{name}."): v for k, v in GOLDEN.tensors.items() if k.startswith(f"out.{name}.")}
    if "logits" in outputs:
        assert error(net(x), outputs["logits"]) < 1e-8
    if "embed" in outputs:
        step = net.embed(x).shape[1] // outputs["embed"].shape[1]
        assert error(net.embed(x)[:, ::step], outputs["embed"]) < 1e-8
    if "eval.logits" in outputs:
        assert error(net.eval()(x), outputs["eval.logits"]) < 1e-8
        step = net.embed(x).shape[1] // outputs["eval.embed"].shape[1]
        assert error(net.embed(x)[:, ::step], outputs["eval.embed"]) < 1e-8
        assert error(net.train()(x), outputs["train.logits"]) < 1e-8
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for buffer in ("running_mean", "running_var"):
            got = torch.cat([getattr(m, buffer) for m in norms])[::4]
            assert error(got, outputs[f"train.{buffer}"]) < 1e-8
