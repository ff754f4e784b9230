"""CIFAR-100: a hundred classes of 32x32 color photographs."""

from __future__ import annotations

from typing import ClassVar

from datastill.data._torchvision import CifarSource


class CIFAR100(CifarSource):
    """32x32 color photographs of a hundred classes (Krizhevsky 2009): 50,000 training and 10,000 test images."""

    torchvision_name: ClassVar[str] = "CIFAR100"
    targets_key: ClassVar[str] = "fine_labels"
    mean: ClassVar[tuple[float, ...]] = (0.5071, 0.4866, 0.4409)
    std: ClassVar[tuple[float, ...]] = (0.2673, 0.2564, 0.2762)
