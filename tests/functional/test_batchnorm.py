"""Statistics of batch normalization: torch's own running statistics, a closed form, gradients; nothing is left behind."""

from __future__ import annotations

import torch
from torch import nn

from datastill.functional.batchnorm import normalizations, statistics
from datastill.rng import RNG


def net() -> nn.Module:
    with RNG("net").as_global():
        return nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.BatchNorm1d(12),
                             nn.BatchNorm1d(12, track_running_stats=False))


X = 2 * RNG("x").normal(5, 2, 4, 4) + 1


def test_they_are_what_torch_would_remember_of_the_batch() -> None:
    network = net().eval()
    found = statistics(network, X)
    assert list(found) == ["0", "2", "4"] == list(normalizations(network))
    z = X
    for name, layer in network.named_children():
        if name in found:
            learner = type(layer)(layer.num_features, momentum=1.0).train()  # type: ignore[arg-type, call-arg, operator]
            learner(z)
            n = z.numel() // z.shape[1]
            torch.testing.assert_close(found[name].mean, learner.running_mean)
            torch.testing.assert_close(found[name].var * n / (n - 1), learner.running_var)
            assert found[name].running_mean is layer.running_mean
            assert found[name].running_var is layer.running_var
        z = layer(z)


def test_the_first_layer_by_hand() -> None:
    first = statistics(net().eval(), X)["0"]
    torch.testing.assert_close(first.mean, X.mean((0, 2, 3)))
    torch.testing.assert_close(first.var, ((X - X.mean((0, 2, 3), keepdim=True))**2).mean((0, 2, 3)))


def test_following_them_brings_images_to_what_is_remembered() -> None:
    network, x = net().eval(), X.clone().requires_grad_()

    def gap() -> torch.Tensor:
        found = statistics(network, x)["0"]
        return (found.mean - found.running_mean).norm() + (found.var - found.running_var).norm()

    before = float(gap().detach())
    for _ in range(50):
        (gradient,) = torch.autograd.grad(gap(), x)
        x.data -= gradient
    assert float(gap().detach()) < 0.2 * before


def test_the_network_stays_as_it_was() -> None:
    network = net().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    statistics(network, X)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert statistics(nn.Flatten(), X) == {}
