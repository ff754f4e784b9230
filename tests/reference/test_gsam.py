"""GSAM steps of FTD's experts against the original implementation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from datastill.data import Batch
from datastill.nets.convnet import ConvNet
from datastill.rng import RNG
from datastill.train import Fixed, Sharpness, Training
from reference.golden import Golden, error, set_parameters


@pytest.mark.parametrize("variant", ["adaptive", "plain"])
def test_steps(variant: str) -> None:
    golden = Golden("gsam_step")
    config = golden.config
    how = config["variants"][variant]
    net = ConvNet(width=config["width"], depth=config["depth"]).build((config["ch"], config["im"], config["im"]), config["C"])
    set_parameters(net.double(), golden.list("in.param"))
    losses = []
    training = Training(net, Fixed(Batch(torch.zeros(1), torch.zeros(1))), [config["lr"]] * 3, RNG(0), batch_size=config["B"],
                        momentum=how["momentum"], weight_decay=how["wd"],
                        sharpness=Sharpness(how["rho"], how["alpha"], how["adaptive"]))
    for number in range(3):
        y = F.one_hot(golden[f"in.y.{number:02d}"], config["C"]).double()
        training.examples = Fixed(Batch(golden[f"in.x.{number:02d}"].double(), y))
        losses.append(training.advance())
        if number in (0, 2):
            weights = [p.detach() for p in net.parameters()]
            assert error(weights, golden.list(f"out.{variant}.w{number + 1}")) <= 1e-8
    assert error(torch.tensor(losses, dtype=torch.double), golden[f"out.{variant}.loss"]) <= 1e-8
    before = torch.cat([p.flatten() for p in golden.list("in.param")]).double()
    assert error(torch.cat([p.detach().flatten() for p in net.parameters()]) - before, golden[f"out.{variant}.delta3"]) <= 1e-8
