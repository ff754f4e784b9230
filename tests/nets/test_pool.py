"""Average pooling: the numbers and gradients of torch's own."""

import pytest
import torch
import torch.nn.functional as F

from datastill.nets._pool import AveragePool


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 9, 7), (2, 5, 2, 3)])
def test_is_torchs_average_pooling(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mine, theirs = AveragePool()(x), F.avg_pool2d(x, 2)
    torch.testing.assert_close(mine, theirs)
    weights = torch.randn(mine.shape, dtype=torch.float64)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (mine, theirs)]
    torch.testing.assert_close(*gradients)
    assert torch.autograd.gradgradcheck(AveragePool(), x)
