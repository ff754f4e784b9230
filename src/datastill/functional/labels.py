"""Soft labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datastill.errors import InputError
from datastill.late import F, torch

if TYPE_CHECKING:
    from torch import Tensor


def mean_of_right(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean logits (N, K) of the networks that classify an image correctly, from the logits (E, N, K) of all networks (DATM,
    Guo et al. 2024). If none is correct: the mean of all, with the logits of the image's class and of the largest swapped
    (ours; the authors divide by zero). targets (N,): class indices.

    >>> mean_of_right(torch.tensor([[[4.0, 0.0]], [[0.0, 2.0]]]), torch.tensor([0]))
    tensor([[4., 0.]])
    """
    if logits.dim() != 3 or targets.shape != logits.shape[1:2]:
        raise InputError(f"mean_of_right: expected logits (E, N, K) and class indices (N,), got {tuple(logits.shape)} and "
                         f"{tuple(targets.shape)}")
    right = (logits.argmax(2) == targets).to(logits.dtype)
    nobody = right.sum(0) == 0
    right = right + nobody
    mean = (logits * right[:, :, None]).sum(0) / right.sum(0)[:, None]
    rows, (largest, place) = torch.arange(len(mean), device=mean.device), mean.max(1)
    exchanged = mean.clone()
    exchanged[rows, place] = mean[rows, targets]
    exchanged[rows, targets] = largest
    return torch.where(nobody[:, None], exchanged, mean)


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Divergence of a student's predictions from a teacher's, from the logits of both (B, K): a scalar, in nats, summed
    over images.

    sum_i KL(softmax(teacher_i / T) || softmax(student_i / T)), without the factor T^2 of Hinton et al. 2015, as in SRe2L,
    SC-DD and RDED. A teacher's logit may be -inf: that class has no share.

    >>> kl(torch.zeros(1, 2), torch.tensor([[0.0, 20.0]]), 20.0)
    tensor(0.1109)
    """
    return F.kl_div(F.log_softmax(student / temperature, 1), (teacher / temperature).softmax(1), reduction="sum")
