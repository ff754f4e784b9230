"""Statistics of batch normalization: torch's own running statistics, a closed form, gradients; nothing is left behind."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

import datastill as ds
from datastill.functional.batchnorm import Watch, layer_distances, normalizations, statistics, statistics_distance
from datastill.functional.fused import has_kernels
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


def rescaled(network: nn.Module, factor: float) -> None:
    """Scale what enters every normalization, and undo it there: the network's function stays the same."""
    for before, norm in pairwise(network.modules()):
        if isinstance(before, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            before.weight.data *= factor
            if before.bias is not None:
                before.bias.data *= factor
            norm.running_mean *= factor  # type: ignore[operator]
            norm.running_var *= factor**2  # type: ignore[operator]
            norm.eps *= factor**2


@pytest.mark.parametrize("factor", [0.2, 3.0, 50.0])
def test_rescaling_changes_the_distances_but_not_the_scale_free_ones(factor: float) -> None:
    from datastill.nets.convnet import ConvNet

    with RNG("scaled").as_global():
        network = ConvNet(width=6, depth=3, norm="batch").build((3, 16, 16), 5).train()
        for _ in range(3):
            network(torch.randn(8, 3, 16, 16))
        network.eval().double()
        x = torch.randn(4, 3, 16, 16).double()
    logits = network(x)
    before, free, total = (how(statistics(network, x)) for how in (layer_distances, partial(layer_distances, scale_free=True),
                                                                   partial(statistics_distance, first=10.0, scale_free=True)))
    rescaled(network, factor)
    after = statistics(network, x)
    torch.testing.assert_close(network(x), logits, rtol=1e-6, atol=1e-6)
    raw = layer_distances(after) / before
    torch.testing.assert_close(raw[0], torch.full((3,), factor).double())
    torch.testing.assert_close(raw[1], torch.full((3,), factor**2).double())
    torch.testing.assert_close(layer_distances(after, scale_free=True), free, rtol=1e-5, atol=0)
    torch.testing.assert_close(statistics_distance(after, 10.0, True), total, rtol=1e-5, atol=0)


def test_the_first_layer_may_count_more() -> None:
    found = statistics(net().eval(), X)
    layers = layer_distances(found).sum(0)
    torch.testing.assert_close(statistics_distance(found, 10.0), 10 * layers[0] + layers[1:].sum())
    with pytest.raises(ds.InputError, match="batch normalization"):
        statistics_distance({})


def test_watching_ends_with_the_block_and_takes_bfloat16() -> None:
    network = net().eval()
    watch = Watch(network)
    with watch as found:
        network(X)
    assert list(found) == ["0", "2", "4"]
    before = dict(found)
    network(X + 1)
    assert found == before
    assert not any("forward" in vars(module) for module in network.modules())
    with pytest.raises(ZeroDivisionError), watch:
        raise ZeroDivisionError
    assert not any("forward" in vars(module) for module in network.modules())
    with Watch(network.bfloat16()) as found:
        network(X.bfloat16())
    assert found["0"].mean.dtype == torch.float32


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("shape", [(5, 3, 4, 4), (40, 3, 32, 32)])
def test_one_operation_gives_what_torch_gives(shape: tuple[int, int, int, int], offset: float) -> None:
    """Means far from 0 too: sums are taken around the running mean."""
    with RNG("once").as_global():
        network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.BatchNorm2d(6, affine=False), nn.BatchNorm2d(6)).eval()
        layers = [module for module in network if isinstance(module, nn.BatchNorm2d)]
        network[0].bias.data += offset  # type: ignore[union-attr, operator]
        for layer in layers:
            layer.running_mean = torch.randn(6) + (offset if layer is layers[0] else 0)
            layer.running_var = torch.rand(6) + 0.5
        layers[0].weight.data = torch.randn(6)
        layers[0].bias.data = torch.randn(6)
        x = torch.randn(*shape)
    network.requires_grad_(False)
    results = []
    for once, double in ((True, False), (False, True)):
        seen = network.double() if double else network
        leaf = (x.double() if double else x.clone()).requires_grad_()
        with Watch(seen, once=once) as found:
            out = seen(leaf)
        loss = out.square().mean() + statistics_distance(found, 10.0)
        results.append((out, loss, torch.autograd.grad(loss, leaf)[0], found))
    (out, loss, gradient, found), (wanted, plain, there, all_) = results
    torch.testing.assert_close(out.double(), wanted, rtol=1e-3, atol=1e-3)
    assert float(loss) == pytest.approx(float(plain), rel=1e-4)
    assert float((gradient - there).norm()) < 1e-3 * float(there.norm())  # a ReLU may open on the other side of rounding
    for name, one in found.items():
        torch.testing.assert_close(one.var.double(), all_[name].var, rtol=1e-3, atol=1e-5)
    if has_kernels():
        assert found["1"].mean.grad_fn is not None
        assert type(found["1"].mean.grad_fn).__name__.startswith("Noted")
        assert not type(found["3"].mean.grad_fn).__name__.startswith("Noted")  # it has no weights


def test_weights_that_learn_are_left_to_torch() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2)).eval()
    with Watch(network, once=True) as found:
        out = network(X)
    assert torch.autograd.grad(out.sum() + found["0"].mean.sum(), network[0].weight)[0].shape == (2,)
