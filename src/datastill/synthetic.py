"""What is learned: images through a parametrization, labels, and a learning rate for training on them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from datastill.data import Batch, Images
from datastill.data.domain import Domain
from datastill.parametrization import Codec
from datastill.rng import RNG


class SyntheticSet(nn.Module):
    """Synthetic images with labels and class names.

    parameters: what the images are decoded from, by name, as ``Parametrization.encode`` makes it; codec: what decodes them.
    labels: of the stored images, (S, K), probabilities; or logits to be learned if ``soft`` is set (then their softmax is
        the label).
    like: the real images they stand for, or their domain: class names in order, mean and std, whitening.
    lr: learning rate for training on them, if the method learns one. of: the numbers of the classes it has images of; by
    default all.

    ``len`` counts decoded images, ``stored`` the stored ones, ``ipc`` those per class.
    """

    def __init__(self, parameters: Mapping[str, Tensor], labels: Tensor, like: Images | Domain,
                 codec: Codec, soft: bool = False, lr: float | None = None,
                 of: range | None = None) -> None:
        super().__init__()
        self.codec = codec
        self._names = list(parameters)
        for name, value in parameters.items():
            self.register_parameter(f"images_{name}", nn.Parameter(value.detach().clone(), requires_grad=False))
        self.labels = nn.Parameter(labels.detach().clone(), requires_grad=False)
        self.lr = None if lr is None else nn.Parameter(torch.tensor(lr, device=labels.device), requires_grad=False)
        self.soft, self.of = soft, of
        self.classes, self.mean, self.std, self.whitening = like.classes, like.mean, like.std, like.whitening

    def __len__(self) -> int:
        return len(self.y())

    @property
    def stored(self) -> int:
        """Number of stored images S."""
        return len(self.labels)

    @property
    def ipc(self) -> int:
        """Stored images of each class."""
        return self.stored // (len(self.classes) if self.of is None else len(self.of))

    @property
    def images(self) -> dict[str, nn.Parameter]:
        """The parameters the images are decoded from, by name."""
        return {name: getattr(self, f"images_{name}") for name in self._names}

    def decode(self, rows: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W), with graph: all, or those at ``rows``; only these are computed."""
        return self.codec.decode(self.images, rows)

    def y(self) -> Tensor:
        """Label probabilities (N, K), with graph if they are learned."""
        return self.codec.labels(self.labels.softmax(1) if self.soft else self.labels)

    def batch(self, rows: Tensor | None = None, epoch: int = 0, rng: RNG | None = None) -> Batch:
        """Images and labels at these rows, or all, with graph; the same in every epoch."""
        return Batch(self.decode(rows), self.y() if rows is None else self.y()[rows])

    def groups(self) -> dict[str, nn.Parameter]:
        """Everything that can be learned, by the name under which an ``Optim`` sets its learning rate."""
        named = {f"images.{name}": parameter for name, parameter in self.images.items()}
        named["labels"] = self.labels
        return named if self.lr is None else {**named, "inner_lr": self.lr}
