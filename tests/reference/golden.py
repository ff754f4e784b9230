"""Golden values: numbers computed with the original implementations, see tests/reference/README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "golden"


class Golden:
    """One fixture: ``golden["in.x"]``, lists by prefix, its config."""

    def __init__(self, name: str) -> None:
        with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.config: dict[str, Any] = json.loads(file.metadata()["config"])

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def list(self, prefix: str) -> list[Tensor]:
        """All tensors ``prefix.00``, ``prefix.01``, ... in order."""
        return [self.tensors[key] for key in sorted(self.tensors) if key.rpartition(".")[0] == prefix]


def error(got: Tensor | list[Tensor], want: Tensor | list[Tensor]) -> float:
    """max |got - want| / max |want| over a tensor or a whole list."""
    gots, wants = ([t.detach().double().flatten() for t in (v if isinstance(v, list) else [v])] for v in (got, want))
    got_flat, want_flat = torch.cat(gots), torch.cat(wants)
    return float((got_flat - want_flat).abs().max() / want_flat.abs().max())


def set_parameters(net: nn.Module, values: list[Tensor]) -> nn.Module:
    """Copy a golden parameter list into a network, in ``parameters()`` order."""
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), values, strict=True):
            parameter.copy_(value)
    return net


def hash_uniform(n: int, k: int, seed: int) -> np.ndarray:
    """n numbers in [0, 1) from a 32-bit integer hash, the same on every platform."""
    mask = np.uint64(0xFFFFFFFF)
    x = (np.arange(n, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(k) * np.uint64(40503)
         + np.uint64(seed) * np.uint64(974711) + np.uint64(12345)) & mask
    for _ in range(2):
        x ^= x >> np.uint64(16)
        x = (x * np.uint64(73244475)) & mask
    x ^= x >> np.uint64(16)
    return x.astype(np.float64) / 2**32


def fill(net: nn.Module, seed: int) -> nn.Module:
    """Fill parameters and batch-norm buffers by the rule of the ``nets`` fixture."""
    with torch.no_grad():
        for k, (name, p) in enumerate(net.named_parameters()):
            u = torch.from_numpy(2 * hash_uniform(p.numel(), k, seed) - 1).view(p.shape)
            if p.dim() >= 2:
                value = u * (6 / (p.numel() / p.shape[0])) ** 0.5
            else:
                value = 1 + 0.2 * u if name.endswith("weight") else 0.1 * u
            p.copy_(value)
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for b, m in enumerate(norms):
            m.running_mean.copy_(torch.from_numpy(0.2 * (2 * hash_uniform(m.num_features, 5000 + b, seed) - 1)))
            m.running_var.copy_(torch.from_numpy(0.5 + hash_uniform(m.num_features, 6000 + b, seed)))
    return net
