"""Scores of difficulty: one image at a time, and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from datastill.functional.difficulty import error_norms, forgetting, gradient_norms, misclassified
from datastill.nets import fresh
from datastill.nets.convnet import ConvNet
from datastill.nets.mlp import MLP
from datastill.rng import RNG
from kit import input_error

X, Y = RNG("x").normal(7, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1, 2])


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("network", [ConvNet(width=4, depth=2), ConvNet(width=4, depth=2, norm="batch"), MLP(width=8)])
def test_gradient_norms_are_those_of_one_image_after_the_other(network: ConvNet | MLP, chunk: int) -> None:
    net = fresh(network, (3, 8, 8), 4, RNG(0), torch.device("cpu"))
    net(X)  # statistics of batch normalization
    state = {name: value.clone() for name, value in net.state_dict().items()}
    found = gradient_norms(net, X, Y, chunk)
    assert net.training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(one.grad is None for one in net.parameters())
    net.eval()
    for number, score in enumerate(found):
        loss = F.cross_entropy(net(X[number:number + 1]), Y[number:number + 1])
        norm = torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(net.parameters()))]).norm()
        torch.testing.assert_close(score, norm, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient_norms(net, X, F.one_hot(Y, 4).float(), chunk), found, rtol=1e-4, atol=1e-6)


def test_no_images() -> None:
    net = fresh(MLP(width=8), (3, 8, 8), 4, RNG(0), torch.device("cpu"))
    assert gradient_norms(net, X[:0], Y[:0]).shape == (0,)


def test_error_norms_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [100.0, 0.0], [100.0, 0.0]])
    torch.testing.assert_close(error_norms(logits, torch.tensor([0, 0, 1])), torch.tensor([0.5**0.5, 0.0, 2**0.5]))
    torch.testing.assert_close(error_norms(logits[:1], torch.tensor([[0.5, 0.5]])), torch.zeros(1))


def test_misclassified_by_hand() -> None:
    logits = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    y = torch.tensor([0, 1])
    assert misclassified(logits[0], y).tolist() == [0, 1]
    assert misclassified(logits, y).tolist() == [0.5, 1]
    assert misclassified(logits, F.one_hot(y, 2).float()).tolist() == [0.5, 1]


def test_forgetting_by_hand() -> None:
    right = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 0, 0], [1, 0, 0, 1]]).bool()
    assert forgetting(right).tolist() == [0, 2, 4, 1]


@pytest.mark.parametrize(("call", "says"), [
    (lambda n, x, y: gradient_norms(n, x, y, 0), "a chunk of at least 1"),
    (lambda n, x, y: gradient_norms(n, x, y[:1]), "class numbers (4,) or probabilities (4, K)"),
    (lambda n, x, y: gradient_norms(n, x, y - 100), "labels range from -100"),
    (lambda n, x, y: gradient_norms(n, x, y + 99), "expected 0 to 2"),
    (lambda n, x, y: gradient_norms(torch.nn.Flatten(), x, y), "no parameters"),
    (lambda n, x, y: gradient_norms(n, x, y, outputs=[0, 9]), "from 0 to 2"),
    (lambda n, x, y: gradient_norms(n, x[0], y), "expected images (B, C, H, W)"),
    (lambda n, x, y: gradient_norms(n, x, torch.rand(4, 2)), "probabilities (4, 3)"),
    (lambda n, x, y: error_norms(n(x), y[:1]), "class numbers (4,)"), (lambda n, x, y: error_norms(n(x), y + 5), "expected 0 to 2"),
    (lambda n, x, y: misclassified(n(x) * torch.nan, y), "not finite"), (lambda n, x, y: misclassified(n(x), y[:2]), "class numbers (4,)"),
    (lambda n, x, y: misclassified(y, y), "expected logits"), (lambda n, x, y: forgetting(n(x)), "whether each image was right"),
    (lambda n, x, y: forgetting(torch.zeros(0, 4, dtype=torch.bool)), "(E, N)")])
def test_what_does_not_fit_is_refused(call: Any, says: str) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    with input_error(says):
        call(network, torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]))
