"""Attention matching against the original implementation of DataDAM: loss and pixel gradient."""

import pytest
import torch

from datastill.data import Batch, Images
from datastill.functional.distances import attention
from datastill.methods.attention import AttentionMatching
from datastill.nets.convnet import ConvNet
from datastill.rng import RNG
from datastill.task import Task
from reference.golden import Golden, error, set_parameters

GOLDEN = Golden("datadam")
CONFIG = GOLDEN.config
CLASSES = CONFIG["C"]


def network() -> torch.nn.Module:
    net = ConvNet(width=CONFIG["width"], depth=CONFIG["depth"]).build((3, 16, 16), CLASSES)
    return set_parameters(net.double(), GOLDEN.list("in.param"))


def labels(each: int) -> torch.Tensor:
    return torch.eye(CLASSES, dtype=torch.float64).repeat_interleave(each, 0)


def test_attention_of_a_map() -> None:
    maps = list(network().maps(GOLDEN["in.syn"].double()).values())  # type: ignore[operator]
    assert error(attention(maps[1]), GOLDEN["out.last_used_attention"]) < 1e-8


def test_the_step_is_that_of_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Batch(GOLDEN["in.real"].double(), labels(CONFIG["nreal"]))
    images = Images(torch.zeros(9, 3, 16, 16).byte(), torch.arange(9) % CLASSES, ("a", "b", "c"), (0.5,) * 3, (0.5,) * 3)
    task = Task(images, ConvNet(width=CONFIG["width"], depth=CONFIG["depth"]))
    monkeypatch.setattr(Task, "random_real", lambda self, n, rng: real)
    monkeypatch.setattr(Task, "fresh", lambda self, rng: network())
    synthetic = task.synthetic(Batch(GOLDEN["in.syn"].double(), labels(CONFIG["ipc"])))
    pixels = synthetic.images["pixels"].requires_grad_()
    method = AttentionMatching(augment="none", task_balance=CONFIG["task_balance"])
    (step,) = method.iterate(0, synthetic, task, RNG(0))
    assert error(step.loss, GOLDEN["out.loss"]) < 1e-8
    assert error(torch.autograd.grad(step.loss, pixels)[0], GOLDEN["out.grad"]) < 1e-8
    (bare,) = AttentionMatching(augment="none", task_balance=0.0).iterate(0, synthetic, task, RNG(0))
    assert error(bare.loss, GOLDEN["out.layer"][:-1].sum()) < 1e-8
