"""ZCA whitening: fitted once on the training images, stored with the distilled images, and undone for viewing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from datastill import memory
from datastill.errors import InputError
from datastill.late import torch
from datastill.store import once

if TYPE_CHECKING:
    from torch import Tensor

EPS = 0.1  # added to every eigenvalue, as in MTT, FTD, TESLA and DATM


@dataclass(frozen=True, eq=False)
class Whitening:
    """x -> (x - mean) W with W = U diag(s + eps)^-1/2 U', with eigenvectors U and eigenvalues s of the covariance.

    It applies to flattened images normalized with mean and std, D = C H W numbers each: mean (D,), vectors (D, D) in
    columns, values (D,). W is symmetric, so whitened images still look like images. (Krizhevsky 2009; eps as in MTT's code.)

    identity: names the images it was fitted on, to distinguish datasets that are whitened differently.
    """

    mean: Tensor
    vectors: Tensor
    values: Tensor
    identity: str = ""
    eps: float = field(default=EPS)

    @cached_property
    def matrix(self) -> Tensor:
        """W, (D, D)."""
        return self._power(-0.5)

    @cached_property
    def inverse(self) -> Tensor:
        """The inverse of W, (D, D)."""
        return self._power(0.5)

    def _power(self, exponent: float) -> Tensor:
        return (self.vectors * (self.values + self.eps) ** exponent) @ self.vectors.T

    def whiten(self, x: Tensor) -> Tensor:
        """Normalized images (B, C, H, W), whitened; differentiable."""
        return ((x.flatten(1) - self.mean) @ self.matrix).view(x.shape)

    def undo(self, x: Tensor) -> Tensor:
        """Whitened images (B, C, H, W) as normalized images; differentiable."""
        return (x.flatten(1) @ self.inverse + self.mean).view(x.shape)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors to store; see ``from_tensors``."""
        return {"mean": self.mean, "vectors": self.vectors.contiguous(), "values": self.values}

    def to(self, device: torch.device | torch.dtype) -> Whitening:
        """The same on another device, or in another floating-point dtype."""
        return replace(self, mean=self.mean.to(device), vectors=self.vectors.to(device), values=self.values.to(device))


def fit(parts: Sequence[Tensor], identity: str = "", eps: float = EPS) -> Whitening:
    """The whitening of normalized images, given in parts (B, C, H, W); computed and returned in float64.

    The covariance is divided by N - 1, as in the original implementations.
    """
    count = sum(len(part) for part in parts)
    mean = torch.stack([part.flatten(1).double().sum(0) for part in parts]).sum(0) / count
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in parts:
        centered = part.flatten(1).double() - mean
        covariance.addmm_(centered.T, centered)
    values, vectors = torch.linalg.eigh(covariance / (count - 1))
    return Whitening(mean, vectors, values.clamp_min(0.0), identity, eps)


def fit_once(path: Path, identity: str, parts: Callable[[], Sequence[Tensor]]) -> Whitening:
    """The whitening stored at ``path``, else fitted on these parts and stored there if possible; in float32."""
    from safetensors.torch import load, save

    fitted: list[Whitening] = []

    def make(aside: Path) -> None:
        fitted.append(fit(parts(), identity).to(torch.float32))
        aside.write_bytes(save(fitted[0].tensors()))

    try:
        if path.parent.is_dir():
            return from_tensors(load(once(path, make).read_bytes()), identity)
    except OSError:  # a read-only root is no reason to stop
        pass
    return fitted[0] if fitted else fit(parts(), identity).to(torch.float32)


def from_tensors(tensors: Mapping[str, Tensor], identity: str) -> Whitening:
    """Inverse of ``Whitening.tensors``. Raises KeyError if a tensor is missing or does not match the others."""
    mean, vectors, values = (tensors[name] for name in ("mean", "vectors", "values"))
    if vectors.shape != (len(mean), len(mean)) or values.shape != mean.shape:
        raise KeyError("vectors")
    return Whitening(mean, vectors, values, identity)


def check_memory(count: int, shape: tuple[int, int, int]) -> None:
    """Check that ``count`` images of this shape can be whitened here. Raises InputError that states the memory needed."""
    size = shape[0] * shape[1] * shape[2]
    needed = 8 * 5 * size**2 + 2 * 4 * size * count  # covariance, eigenvectors, workspace for computing them; the images
    there = memory.total()
    if needed > memory.SHARE * there:
        raise InputError(f"data.zca: whitening {count} images of shape {shape} needs about "
                         f"{needed / 2**30:.0f} GiB of memory, and this machine has {there / 2**30:.0f} GiB; choose a "
                         "smaller data.size, or data.zca=false")
