"""The MLP: two hidden layers, any image."""

from __future__ import annotations

import pytest
import torch

from datastill.nets.mlp import MLP


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 5), (1, 28, 28)])
def test_it_fits_every_image(shape: tuple[int, int, int]) -> None:
    net = MLP(width=6).build(shape, 4)
    assert net(torch.zeros(2, *shape)).shape == (2, 4)
    assert [value.shape for value in net.maps(torch.zeros(2, *shape)).values()] == [(2, 6), (2, 6)]


def test_the_last_hidden_layer_is_the_embedding() -> None:
    net, x = MLP(width=6).build((1, 4, 4), 4), torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(net.maps(x)["hidden2"], net.embed(x))
    hidden = (x.flatten(1) @ net.features.fc1.weight.T + net.features.fc1.bias).relu()
    torch.testing.assert_close(net.maps(x)["hidden1"], hidden)
