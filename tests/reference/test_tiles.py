"""Decoding of several images in one against golden values of IDC and IDM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from datastill.functional.distances import gradient_distance
from datastill.functional.tiles import untiled
from datastill.nets.convnet import ConvNet
from reference.golden import Golden, error, set_parameters

IDC, IDM, MATCH = Golden("idc_decode"), Golden("idm_decode"), Golden("idc_match")


def theirs(x: Tensor, factor: int, order: Any) -> Tensor:
    """In the order of the papers: all images of the first tile, then of the second."""
    return untiled(x, factor, order).transpose(0, 1).flatten(0, 1)


@pytest.mark.parametrize("case", range(4))
def test_idc(case: int) -> None:
    factor, _ = IDC.config["cases"][case]
    x = IDC[f"in.{case}.x"].double().requires_grad_()
    found = theirs(x, factor, "rows")
    assert error(found, IDC[f"out.{case}.y"].double()) < 1e-6
    (gradient,) = torch.autograd.grad((IDC[f"in.{case}.cot"].double() * found).sum(), x)
    assert error(gradient, IDC[f"out.{case}.vjp"]) < 1e-10
    assert torch.equal(torch.arange(len(x)).repeat(factor**2), IDC[f"out.{case}.label"])


def test_idc_several_factors() -> None:
    x = IDC["in.0.x"].double()
    assert error(torch.cat([theirs(x, factor, "rows") for factor in (1, 2)]), IDC["out.multi"].double()) < 1e-6


@pytest.mark.parametrize(("case", "factor", "order"), [("x2", 2, "columns"), ("x3", 3, "rows")])
def test_idm(case: str, factor: int, order: str) -> None:
    x = IDM[f"in.{case}.x"].double().requires_grad_()
    found = theirs(x, factor, order)
    assert error(found, IDM[f"out.{case}.y"]) < 1e-10
    (gradient,) = torch.autograd.grad((IDM[f"in.{case}.cot"].double() * found).sum(), x)
    assert error(gradient, IDM[f"out.{case}.vjp"]) < 1e-10


@pytest.mark.parametrize(("name", "metric", "layers"), [
    ("mse", "mse", "convolutions"), ("l1", "l1", "convolutions"), ("l1_mean", "l1_mean", "convolutions"), ("cos", "layerwise", "convolutions"),
    ("mse_fc", "mse", "convolutions and the classifier")])
def test_matching(name: str, metric: Any, layers: str) -> None:
    config = MATCH.config
    net = set_parameters(ConvNet(width=config["width"], depth=config["depth"]).build((3, config["im"], config["im"]), config["C"]).double(),
                         MATCH.list("in.param"))
    parameters = [one.requires_grad_() for one in net.parameters()]
    real, syn = MATCH["in.real"].double(), MATCH["in.syn"].double().requires_grad_()

    def gradients(x: Tensor) -> list[Tensor]:
        loss = torch.nn.functional.cross_entropy(net(x), torch.full((len(x),), config["label"]))
        found = list(torch.autograd.grad(loss, parameters, create_graph=True))
        return [one for one in found if one.dim() > 1] if layers != "convolutions" else found

    wanted = [one.detach() for one in gradients(real)]
    distance = gradient_distance(gradients(syn), wanted, metric, "convolutions" if layers == "convolutions" else "all")
    assert error(distance, MATCH[f"out.{name}"]) < 1e-8
    assert error(torch.autograd.grad(distance, syn)[0], MATCH[f"out.{name}_grad"]) < 1e-8
