"""Soft labels."""

from __future__ import annotations

from torch import Tensor


def mean_of_right(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean logits (N, K) of those networks that are right about an image, from the logits (E, N, K) of all (DATM, Guo et al.
    2024). Where none is right, of all (ours; the authors divide by zero). targets (N,): class indices."""
    right = (logits.argmax(2) == targets).to(logits.dtype)
    right = right + (right.sum(0) == 0)
    return (logits * right[:, :, None]).sum(0) / right.sum(0)[:, None]
