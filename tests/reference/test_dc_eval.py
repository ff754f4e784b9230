"""The dc protocol against the original implementation: its schedule and a full training run."""

import pytest
import torch

from datastill.data import Batch, Images
from datastill.nets.convnet import ConvNet
from datastill.protocols.dc import DC
from datastill.rng import RNG
from datastill.train import Fixed, accuracies
from reference.golden import Golden, error, set_parameters

GOLDEN = Golden("dc_eval")
CONFIG = GOLDEN.config


@pytest.mark.parametrize("epochs", CONFIG["E"])
def test_schedule(epochs: int) -> None:
    rates, restarts = DC(epochs=epochs, lr=CONFIG["lr"]).schedule()
    want = GOLDEN[f"out.lr.E{epochs}"].tolist()
    assert len(rates) == len(want) == epochs + 1
    assert max(abs(a - b) for a, b in zip(rates, want, strict=True)) < 1e-12
    begun = [r for r in restarts if r < len(rates)]
    assert (begun or [-1]) == [int(GOLDEN[f"out.new_optimizer.E{epochs}"])]


def test_default_epochs_are_the_papers() -> None:
    assert len(DC(augment="none").schedule()[0]) == 301
    assert len(DC(augment="dsa").schedule()[0]) == 1001


def test_full_run() -> None:
    start = GOLDEN.list("in.param")
    net = set_parameters(ConvNet(width=CONFIG["width"], depth=3).build((3, 16, 16), CONFIG["C"]), start)
    one_hot = torch.eye(CONFIG["C"])[GOLDEN["in.y"]]
    DC(epochs=CONFIG["run_E"], lr=CONFIG["lr"], augment="none").train(net, Fixed(Batch(GOLDEN["in.x"], one_hot)), RNG(0))
    assert error(list(net.parameters()), GOLDEN.list("out.final")) < 1e-5
    moved = torch.cat([(a - b).flatten() for a, b in zip(net.parameters(), start, strict=True)])
    assert error(moved, GOLDEN["out.delta"]) < 1e-3
    with torch.no_grad():
        logits = net.eval()(GOLDEN["in.xt"])
    assert error(logits, GOLDEN["out.test_logits"]) < 2e-4
    assert abs(float((logits.argmax(1) == GOLDEN["in.yt"]).float().mean()) - float(GOLDEN["out.acc_test"])) < 1e-6


def test_accuracies_are_of_each_class() -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.eye(3)[1].expand(len(x), 3)

    images = Images(torch.zeros(5, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 1, 2, 2]), ("a", "b", "c"), (0.0,), (1.0,))
    assert accuracies(Constant(), images).tolist() == [0.0, 1.0, 0.0]
