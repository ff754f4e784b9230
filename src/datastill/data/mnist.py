"""MNIST: handwritten digits (LeCun et al. 1998): 60,000 training and 10,000 test images, gray."""

from __future__ import annotations

from typing import Any, ClassVar

from torchvision import datasets

from datastill.data._torchvision import IdxSource


class MNIST(IdxSource):
    """28x28 handwritten digits (LeCun et al. 1998): 60,000 training and 10,000 test images, gray."""

    dataset: ClassVar[Any] = datasets.MNIST
    mean: ClassVar[tuple[float, ...]] = (0.1307,)
    std: ClassVar[tuple[float, ...]] = (0.3081,)

    def class_names(self) -> tuple[str, ...]:
        return tuple(name.split(" - ")[1] for name in self.dataset.classes)  # "0 - zero"
