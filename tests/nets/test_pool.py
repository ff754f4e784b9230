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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 9, 7), (2, 5, 2, 3)])
def test_its_gradient_in_every_precision(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Each has code of its own."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    weights = torch.randn(AveragePool()(x).shape).to(dtype)
    mine, theirs = (torch.autograd.grad((y * weights).sum(), x, create_graph=True)[0] for y in (AveragePool()(x), F.avg_pool2d(x, 2)))
    torch.testing.assert_close(mine, theirs)


def test_it_can_be_mapped_over_classes() -> None:
    x = torch.randn(4, 2, 3, 6, 6)
    per_class = torch.func.vmap(torch.func.grad(lambda images: AveragePool()(images).square().sum()))(x)
    assert torch.allclose(per_class, torch.stack([torch.func.grad(lambda i: F.avg_pool2d(i, 2).square().sum())(part)
                                                  for part in x]))
