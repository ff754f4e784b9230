"""Operations that pass over memory once where torch would pass over it many times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING

from datastill.environment import environment
from datastill.late import F, torch
from datastill.progress import log

if TYPE_CHECKING:
    from torch import Tensor

KERNELS = "DATASTILL_KERNELS"  # environment variable; "torch": only torch's own operations


def normalized_pool(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """2x2 average pooling of the ReLU of an instance normalization, (B, C, H, W) -> (B, C, H // 2, W // 2).

    ``avg_pool2d(relu(group_norm(x, C, weight, bias, eps)), 2)``, differentiable any number of times. The first and second
    derivatives are fused too where ``fuses(x, weight, bias)``; results differ from torch's by rounding.

    weight, bias: (C,). Example::

        >>> import torch, datastill.functional.fused as fused
        >>> fused.normalized_pool(torch.randn(2, 3, 8, 8), torch.ones(3), torch.zeros(3)).shape
        torch.Size([2, 3, 4, 4])
    """
    if fuses(x, weight, bias):
        from datastill.functional._fused import Fused

        found: Tensor = Fused.apply(x, weight, bias, eps)
        return found
    return plainly(x, weight, bias, eps)


def plainly(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The same by torch's own operations, differentiable any number of times."""
    return F.avg_pool2d(F.relu(F.group_norm(x, x.shape[1], weight, bias, eps)), 2)


_torch: ContextVar[bool] = ContextVar("torch", default=False)


@contextmanager
def using_torch() -> Iterator[None]:
    """Inside, only torch's own operations are used."""
    token = _torch.set(True)
    try:
        yield
    finally:
        _torch.reset(token)


def fuses(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether the fused kernels can take these: plain float32 tensors on the CPU, contiguous or with channels last, outside
    of autocast, compiling and ``torch.func``."""
    return (not torch.compiler.is_compiling() and x.device.type == "cpu" and type(x) is torch.Tensor
            and x.dtype == weight.dtype == bias.dtype == torch.float32 and x.dim() == 4 and min(x.shape) > 0
            and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
            and not torch.is_autocast_enabled("cpu") and not _is_transformed(x, weight, bias) and not _torch.get()
            and has_kernels())


def _is_transformed(*tensors: Tensor) -> bool:
    """Whether a tensor stands for others: under ``torch.func`` and forward-mode differentiation."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return any(wrapped(one) for one in tensors) or torch.autograd.forward_ad._current_level >= 0


@cache
def has_kernels() -> bool:
    """Whether there are compiled kernels: numba is installed and works. If it does not work, that is said once."""
    if environment(KERNELS, "torch") == "torch":
        return False
    try:
        from datastill.functional._fused import Fused

        x = torch.zeros(1, 1, 2, 2)
        Fused.apply(x, x.new_ones(1), x.new_ones(1), 1e-5)
    except ModuleNotFoundError:
        return False
    except Exception as error:
        log.warning("numba does not work here (%s), so torch's own operations are used: slower, the same results",
                    str(error).partition("\n")[0] or type(error).__name__)
        return False
    return True
