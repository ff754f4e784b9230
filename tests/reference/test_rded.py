"""RDED against the golden values: which crops, how they are put together, what students see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from datastill.functional.labels import kl
from datastill.functional.mixing import Mix, mixed
from datastill.functional.rded import centered, choose_crops, mosaic, shuffle_strips
from datastill.nets.convnet import ConvNet
from reference.golden import Golden, error, set_parameters

GOLDEN, STUDENT = Golden("rded"), Golden("rded_kl")
CONFIG = GOLDEN.config
SIZE = (CONFIG["size"], CONFIG["size"])


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    net = ConvNet(width=CONFIG["width"], depth=CONFIG["depth"], norm="batch").build((3, *SIZE), CONFIG["C"])
    set_parameters(net, GOLDEN.list("in.param"))
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for number, module in enumerate(norms):
        module.running_mean.copy_(GOLDEN[f"in.buf.{2 * number:02d}"])  # type: ignore[union-attr]
        module.running_var.copy_(GOLDEN[f"in.buf.{2 * number + 1:02d}"])  # type: ignore[union-attr]
    return net.eval()


@pytest.fixture(scope="module")
def losses(teacher: nn.Module) -> Tensor:
    crops = GOLDEN["in.crops"]
    with torch.no_grad():
        logits = teacher(centered(crops.flatten(0, 1), SIZE))
    target = torch.full((len(logits),), CONFIG["label"])
    return nn.functional.cross_entropy(logits, target, reduction="none").view(crops.shape[:2])


def test_losses_and_choice(losses: Tensor) -> None:
    assert error(losses.T, GOLDEN["out.ce"]) < 1e-5
    assert torch.equal(losses.argmin(1), GOLDEN["out.best_crop"])
    images, crops = choose_crops(losses, CONFIG["ipc"] * CONFIG["factor"] ** 2)
    assert torch.equal(images, GOLDEN["out.selected_image"])
    assert torch.equal(GOLDEN["in.crops"][images, crops], GOLDEN["out.selected"])


@pytest.mark.parametrize(("side", "key"), [(CONFIG["size"], "out.stitched"), (CONFIG["size3"], "out.stitched_odd")])
def test_mosaic(side: int, key: str) -> None:
    found = mosaic(GOLDEN["out.selected"], CONFIG["ipc"], CONFIG["factor"], (side, side))
    assert torch.equal(found, GOLDEN[key])


def test_cutmix_and_the_students_loss() -> None:
    images = STUDENT["in.images"].double()
    top, left, bottom, right = STUDENT["in.box"].tolist()
    shown = mixed(images, Mix(STUDENT["in.perm"], 0.5, (top, left, bottom, right)))
    assert error(shown, STUDENT["out.mixed"]) < 1e-8
    weights = STUDENT["in.W_s"].double().requires_grad_()
    loss = kl(shown.flatten(1) @ weights.T, shown.flatten(1) @ STUDENT["in.W_t"].double().T, STUDENT.config["T"]) / len(images)
    assert error(loss, STUDENT["out.loss"]) < 1e-8
    assert error(torch.autograd.grad(loss, weights)[0], STUDENT["out.grad_ws"]) < 1e-8


def test_strips() -> None:
    found = shuffle_strips(STUDENT["in.img"], STUDENT["in.col_order"], STUDENT["in.row_order"])
    assert torch.equal(found, STUDENT["out.shuffled"])
