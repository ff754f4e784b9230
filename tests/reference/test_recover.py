"""Recovery from a frozen network against the golden values: the statistics loss, the loop of SRe2L, the soft-label loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datastill.functional.batchnorm import Watch, layer_distances, statistics_distance
from datastill.functional.labels import kl
from datastill.nets.convnet import ConvNet
from reference.golden import Golden, error, set_parameters

GOLDEN, LOOP, SOFT = Golden("bn_loss"), Golden("sre2l_recover"), Golden("kd_kl")
CONFIG = GOLDEN.config
MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])


def network() -> nn.Module:
    net = ConvNet(width=CONFIG["width"], depth=CONFIG["depth"], norm="batch").build((3, CONFIG["im"], CONFIG["im"]), CONFIG["C"])
    set_parameters(net.double(), GOLDEN.list("in.param"))
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for module, mean, var in zip(norms, GOLDEN.list("in.running_mean"), GOLDEN.list("in.running_var"), strict=True):
        module.running_mean.copy_(mean)  # type: ignore[union-attr]
        module.running_var.copy_(var)  # type: ignore[union-attr]
    return net.eval().requires_grad_(False)


def test_statistics_loss_and_its_gradients() -> None:
    net, x = network(), GOLDEN["in.x"].double().requires_grad_()
    with Watch(net) as found:
        logits = net(x)
    assert error(logits, GOLDEN["out.logits"]) < 1e-9
    layers = layer_distances(found)
    assert error(layers[0], GOLDEN["out.layer_mean"]) < 1e-9
    assert error(layers[1], GOLDEN["out.layer_var"]) < 1e-9
    assert error(layers.sum(0), GOLDEN["out.layer"]) < 1e-9
    bn = statistics_distance(found, CONFIG["first_bn_multiplier"])
    ce = nn.functional.cross_entropy(logits, GOLDEN["in.y"])
    total = ce + CONFIG["r_bn"] * bn
    for name, value in {"ce": ce, "bn": bn, "total": total}.items():
        assert error(value, GOLDEN[f"out.{name}"]) < 1e-9
    for name, value in {"grad_ce": ce, "grad_bn": bn, "grad": total}.items():
        assert error(torch.autograd.grad(value, x, retain_graph=True)[0], GOLDEN[f"out.{name}"]) < 1e-9


def test_soft_label_loss() -> None:
    student: Tensor = SOFT["in.student"].double().requires_grad_()
    loss = kl(student, SOFT["in.teacher"].double(), SOFT.config["T"]) / len(student)
    assert error(loss, SOFT["out.loss"]) < 1e-10
    assert error(torch.autograd.grad(loss, student)[0], SOFT["out.grad"]) < 1e-10
