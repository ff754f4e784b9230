"""FashionMNIST: articles of clothing (Xiao et al. 2017): 60,000 training and 10,000 test images, gray."""

from __future__ import annotations

from typing import ClassVar

from datastill.data._torchvision import IdxSource


class FashionMNIST(IdxSource):
    """28x28 articles of clothing (Xiao et al. 2017): 60,000 training and 10,000 test images, gray."""

    torchvision_name: ClassVar[str] = "FashionMNIST"
    mean: ClassVar[tuple[float, ...]] = (0.2861,)
    std: ClassVar[tuple[float, ...]] = (0.3530,)
