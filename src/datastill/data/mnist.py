"""MNIST: handwritten digits (LeCun et al. 1998): 60,000 training and 10,000 test images, gray."""

from __future__ import annotations

from typing import Any, ClassVar

from datastill.data._torchvision import IdxSource


class MNIST(IdxSource):
    """28x28 handwritten digits (LeCun et al. 1998): 60,000 training and 10,000 test images, gray."""

    torchvision_name: ClassVar[str] = "MNIST"
    mean: ClassVar[tuple[float, ...]] = (0.1307,)
    std: ClassVar[tuple[float, ...]] = (0.3081,)

    def class_names(self, dataset: Any) -> tuple[str, ...]:
        return tuple(name.split(" - ")[1] for name in dataset.classes)  # "0 - zero"
