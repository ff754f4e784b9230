"""CIFAR-10: ten classes of 32x32 color photographs."""

from __future__ import annotations

from typing import ClassVar

from datastill.data._torchvision import CifarSource


class CIFAR10(CifarSource):
    """32x32 color photographs of ten classes (Krizhevsky 2009): 50,000 training and 10,000 test images."""

    torchvision_name: ClassVar[str] = "CIFAR10"
    targets_key: ClassVar[str] = "labels"
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    std: ClassVar[tuple[float, ...]] = (0.2023, 0.1994, 0.2010)
