"""Grad-CAM maps and the terms of MetaDD against golden values (of our own second implementation and captum: there is no code
of the authors')."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datastill.functional.cam import Cam, grad_cam, normalized_maps
from datastill.functional.invariance import distillation, evidence, map_variance, masks
from datastill.nets.convnet import ConvNet
from reference.golden import Golden, error, set_parameters

CAM = Golden("cam")
LAYERS = {"act": "", "act0": "block1", "features": "features"}


def nets() -> list[tuple[nn.Module, str]]:
    found = []
    for number, (width, depth, norm, activation, pooling, hook) in enumerate(CAM.config["nets"]):
        norms, pools = {"instancenorm": "instance", "batchnorm": "batch"}, {"avgpooling": "avg", "maxpooling": "max"}
        options: dict[str, Any] = {"norm": norms[norm], "activation": activation, "pooling": pools[pooling]}
        net = ConvNet(width=width, depth=depth, **options).build((3, 16, 16), CAM.config["C"]).double()
        set_parameters(net, CAM.list(f"in.m{number}.param"))
        buffers = [one for name, one in net.named_buffers() if not name.endswith("tracked")]
        for buffer, value in zip(buffers, CAM.list(f"in.m{number}.buf") if buffers else [], strict=True):
            buffer.copy_(value)
        found.append((net.eval().requires_grad_(False), LAYERS[hook]))
    return found


def seen(x: Tensor, through_weights: bool = True) -> tuple[list[Cam], Tensor]:
    cams = [grad_cam(net, x, CAM["in.y"], layer, through_weights=through_weights) for net, layer in nets()]
    return cams, torch.stack([normalized_maps(one.maps, (16, 16)) for one in cams])


def test_the_maps() -> None:
    cams, maps = seen(CAM["in.x"].double())
    for number, cam in enumerate(cams):
        assert error(cam.maps, CAM[f"out.m{number}.cam"]) < 1e-8
        assert error(maps[number], CAM[f"out.m{number}.norm"]) < 1e-8


def test_the_terms_and_their_gradients() -> None:
    x = CAM["in.x"].double().requires_grad_()
    y = CAM["in.y"]
    cams, maps = seen(x)
    terms = {"var": map_variance(maps), "pos": evidence(maps),
             "ce": torch.stack([nn.functional.cross_entropy(one.logits, y) for one in cams]).sum(),
             "kd": torch.stack([distillation(one.logits, cams[0].logits, CAM.config["T"]) for one in cams]).sum()}
    for name, term in terms.items():
        assert error(term, CAM[f"out.L_{name}"]) < 1e-8, name
        assert error(torch.autograd.grad(term, x, retain_graph=True)[0], CAM[f"out.dL_{name}"]) < 1e-8, name
    x = CAM["in.x"].double().requires_grad_()
    detached = map_variance(seen(x, through_weights=False)[1])
    assert error(torch.autograd.grad(detached, x)[0], CAM["out.dL_var_detached"]) < 1e-8


def test_the_masks() -> None:
    found = masks(seen(CAM["in.x"].double())[1], CAM.config["threshold"])
    assert torch.equal(found.meta, CAM["out.meta"])
    assert torch.equal(found.heterogeneous, CAM["out.het"])
    for name, value in (("meta_ratio", found.meta_share), ("het_ratio", found.heterogeneous_share), ("iou", found.overlap)):
        assert value == pytest.approx(float(CAM[f"out.{name}"]), abs=1e-12)
