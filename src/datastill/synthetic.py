"""What is learned: images through a parametrization, labels, and a learning rate for those who train on them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from datastill.data import Batch, Images
from datastill.description import Family
from datastill.rng import RNG


class Parametrization(Family):
    """How images come from the parameters that are learned. A new one is a file in ``datastill/parametrizations``."""

    home: ClassVar[str] = "datastill.parametrizations"

    @abstractmethod
    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """Parameters to start from, by name, for normalized images (N, C, H, W)."""

    @abstractmethod
    def decode(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Normalized images (N, C, H, W), differentiable in the parameters."""


class SyntheticSet(nn.Module):
    """Synthetic images with labels and names of the classes.

    images: start, normalized, (N, C, H, W); kept as the parameters the parametrization makes of them.
    labels: (N, K), probabilities; or logits to be learned where ``soft`` is set (then their softmax is the label).
    like: the real images they stand for: class names in order, mean and std, whitening.
    lr: learning rate for training on them, where the method learns one.
    """

    def __init__(self, images: Tensor, labels: Tensor, like: Images, parametrization: Parametrization,
                 soft: bool = False, lr: float | None = None) -> None:
        super().__init__()
        self.parametrization = parametrization
        self._names = []
        for name, value in parametrization.encode(images).items():
            self.register_parameter(f"images_{name}", nn.Parameter(value.detach().clone(), requires_grad=False))
            self._names.append(name)
        self.labels = nn.Parameter(labels.detach().clone(), requires_grad=False)
        self.lr = None if lr is None else nn.Parameter(torch.tensor(lr, device=images.device), requires_grad=False)
        self.soft = soft
        self.classes, self.mean, self.std, self.whitening = like.classes, like.mean, like.std, like.whitening

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> dict[str, nn.Parameter]:
        """The parameters the images are decoded from, by name."""
        return {name: getattr(self, f"images_{name}") for name in self._names}

    def decode(self) -> Tensor:
        """All images (N, C, H, W), with graph."""
        return self.parametrization.decode(self.images)

    def y(self) -> Tensor:
        """Label probabilities (N, K), with graph where they are learned."""
        return self.labels.softmax(1) if self.soft else self.labels

    def batch(self, rows: Tensor | None = None, epoch: int = 0, rng: RNG | None = None) -> Batch:
        """Images and labels at these rows, or all, with graph; the same in every epoch."""
        x, y = self.decode(), self.y()
        return Batch(x, y) if rows is None else Batch(x[rows], y[rows])

    def groups(self) -> dict[str, nn.Parameter]:
        """All that can be learned, by the name an ``Optim`` gives it a learning rate under."""
        named = {f"images.{name}": parameter for name, parameter in self.images.items()}
        named["labels"] = self.labels
        return named if self.lr is None else {**named, "inner_lr": self.lr}
