"""SVHN: house numbers from street photographs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from datastill.data._torchvision import ensure
from datastill.data.source import Arrays, Source


class SVHN(Source):
    """32x32 house numbers in color (Netzer et al. 2011): 73,257 training and 26,032 test images; "extra" is left out.

    Reads torchvision's two files, train_32x32.mat and test_32x32.mat: in ``<root>/SVHN``, where they are downloaded to, or
    in the root itself, which is where torchvision's loader looks. The label 10 in these files means the digit 0.
    """

    download: ClassVar[bool] = True
    mean: ClassVar[tuple[float, ...]] = (0.4377, 0.4438, 0.4728)
    std: ClassVar[tuple[float, ...]] = (0.1980, 0.2010, 0.1970)

    def read(self, place: Path, size: int | None, channels: int | None) -> Arrays:
        from torchvision import datasets
        from torchvision.datasets.utils import download_url

        listed = [datasets.SVHN.split_list[split] for split in ("train", "test")]
        urls, files = {name: url for url, name, _ in listed}, {name: md5 for _, name, md5 in listed}
        home = place / "SVHN"
        folder = next((f for f in (home, place) if any((f / name).is_file() for name in files)), home)

        def fetch(missing: list[str]) -> None:
            for name in missing:
                download_url(urls[name], str(folder), name, files[name])

        ensure("SVHN", folder, files, fetch)
        train, test = (_read_mat(folder / name) for name in files)
        return Arrays(train, test, tuple("0123456789"), self.mean, self.std)


def _read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """X (H, W, C, N) as images (N, H, W, C); y (N, 1) of 1 to 10 as digits (N,)."""
    from scipy.io import loadmat

    table = loadmat(path, variable_names=["X", "y"])
    return table["X"].transpose(3, 0, 1, 2), table["y"][:, 0].astype(np.int64) % 10
