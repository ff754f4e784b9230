"""scikit-learn's bundled digits: 1,797 gray images of 8x8 pixels, ten classes. No download needed."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from datastill.data.source import Arrays, Source


class Digits(Source):
    """8x8 handwritten digits bundled with scikit-learn; 17 gray levels scaled to 0-255; no test split of its own."""

    bundled: ClassVar[bool] = True

    def read(self, place: Path, size: int | None, channels: int | None) -> Arrays:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        return Arrays((images, digits.target), None, tuple(str(d) for d in range(10)))
