"""Generators for tests: small, class-conditional or not, good and bad."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Latents (B, 4) and classes (B, K) -> images (B, 1, 8, 8) from -1 to 1; the classes are used as far as it knows them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Linear(4, 32)
            self.kinds = nn.Parameter(torch.randn(10, 32))
            self.middle = nn.Conv2d(2, 4, 3, padding=1)
            self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        x = self.first(z) + y @ self.kinds[:y.shape[1]]
        x = torch.relu(self.middle(x.view(-1, 2, 4, 4)))
        return torch.tanh(self.last(nn.functional.interpolate(x, scale_factor=2.0)))


class Free(Small):
    """Without classes."""

    def forward(self, z: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(z, z.new_zeros(len(z), 10))


class Encoding(Small):
    """With latents of its own: the mean pixel."""

    def encode(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))[:, None].expand(-1, 4)


class Encoding5(Encoding):
    """Takes more latents than it gives."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return super().forward(z[:, :4], y)


class Large(Small):
    """Of another size."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return nn.functional.interpolate(super().forward(z, y), scale_factor=2.0)


class Deaf(Small):
    """Not differentiable."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return super().forward(z, y).detach()


class Broken(Small):
    """Raises."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("out of\norder")


class Boundless(Small):
    """Not finite."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return super().forward(z, y) / 0 * z.sum()


class Unseeded(nn.Module):
    """Draws its weights when it is created."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 64)
        self.beside = nn.Linear(4, 4)  # not on the way to the images

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.last(z)).view(-1, 1, 8, 8)


class Noisy(Small):
    """Draws at random."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        found = super().forward(z, y)
        return found + 0.1 * torch.randn_like(found)


class Plain:
    """No module."""


class Double(Small):
    """In float64."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return super().forward(z, y).double()


class Bytes(Small):
    """In whole numbers."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return (127 * super().forward(z, y) + 128).to(torch.uint8)


class Pair(Small):
    """Gives more than images."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return super().forward(z, y), z  # type: ignore[return-value]


class Raw(Small):
    """From 0 to 255."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return 127.5 * (1 + super().forward(z, y))


class Mixing(Small):
    """An image depends on the others in its batch."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        found = super().forward(z, y)
        return 0.5 * (found + found.mean(0))


class Lost(Small):
    """Not finite far from the middle."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return super().forward(z, y) * torch.where(z.abs().amax() > 10, torch.nan, 1.0)


class EncodingNothing(Encoding):
    """Latents that are not finite."""

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x) * torch.nan


class EncodingOne(Encoding):
    """One latent for all."""

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x)[:1]


class Changing(Small):
    """Whose code changes."""

    sign = 1

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.sign * super().forward(z, y)
