"""Datasets in torchvision's layouts: find the files, verify checksums, download what is missing, read."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datastill.data.source import Arrays, Source
from datastill.errors import InputError


class IdxSource(Source):
    """A dataset of the MNIST family in ``<root>/<Name>/raw``, read from its original archives."""

    download: ClassVar[bool] = True
    torchvision_name: ClassVar[str]  # of the class with the file names, checksums, mirrors and class names
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]

    def read(self, place: Path, size: int | None, channels: int | None) -> Arrays:
        dataset = _dataset(self.torchvision_name)
        folder = place / dataset.__name__ / "raw"
        files = dict(dataset.resources)

        def fetch(missing: list[str]) -> None:
            for name in missing:
                _fetch_one(dataset, name, folder, files[name])

        ensure(dataset.__name__, folder, files, fetch)
        train, train_targets, test, test_targets = (_read_idx(folder / name) for name in files)
        return Arrays((train[..., None], train_targets), (test[..., None], test_targets),
                      self.class_names(dataset), self.mean, self.std)

    def class_names(self, dataset: Any) -> tuple[str, ...]:
        """The class names in target order."""
        return tuple(dataset.classes)


class CifarSource(Source):
    """CIFAR-10 or CIFAR-100, read from its original folder of batches."""

    download: ClassVar[bool] = True
    torchvision_name: ClassVar[str]
    targets_key: ClassVar[str]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]

    def read(self, place: Path, size: int | None, channels: int | None) -> Arrays:
        from torchvision.datasets.utils import download_and_extract_archive

        dataset = _dataset(self.torchvision_name)
        folder = place / dataset.base_folder
        files = dict((*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])))

        def fetch(missing: list[str]) -> None:
            download_and_extract_archive(dataset.url, str(place), filename=dataset.filename, md5=dataset.tgz_md5)

        ensure(dataset.__name__, folder, files, fetch)
        classes = _unpickle(folder / dataset.meta["filename"])[dataset.meta["key"]]
        train, test = (self._read_batches([folder / name for name, _ in batches])
                       for batches in (dataset.train_list, dataset.test_list))
        return Arrays(train, test, tuple(classes), self.mean, self.std)

    def _read_batches(self, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
        batches = [_unpickle(path) for path in paths]
        images = np.concatenate([np.asarray(batch["data"], dtype=np.uint8) for batch in batches])
        targets = np.concatenate([np.asarray(batch[self.targets_key]) for batch in batches])
        return np.ascontiguousarray(images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), targets


def _dataset(name: str) -> Any:
    """torchvision's dataset class. Importing torchvision takes seconds, so it is done only when data is read."""
    from torchvision import datasets

    return getattr(datasets, name)


def _fetch_one(dataset: Any, name: str, folder: Path, md5: str) -> None:
    """Download a file from the first mirror that works."""
    from torchvision.datasets.utils import download_url

    *first, last = dataset.mirrors
    for mirror in first:
        try:
            return download_url(mirror + name, str(folder), name, md5)
        except (OSError, RuntimeError):
            continue
    return download_url(last + name, str(folder), name, md5)


def ensure(name: str, folder: Path, files: dict[str, str], fetch: Callable[[list[str]], object]) -> None:
    """Check that ``files`` (name in ``folder`` -> md5) exist and match; ``fetch`` the missing ones.

    Raises InputError that names the damaged file, or the missing file, where it was expected and how to get it.
    """
    missing = _missing(folder, files)
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""

        def fetch_into_folder() -> None:
            with made(folder):
                fetch(missing)

        attempt(name, f"{folder / missing[0]}{others}", fetch_into_folder)
        if missing := _missing(folder, files):
            raise InputError(f"dataset {name}: the download did not create {folder / missing[0]}; try again")


def attempt(name: str, wanted: str, fetch: Callable[[], object]) -> None:
    """Download with ``fetch``. Raises InputError that says what is missing, why the download failed and what to do."""
    try:
        fetch()
    except Exception as error:  # torchvision raises RuntimeError, URLError, OSError, ...
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"dataset {name} not found: looked for {wanted}, and the download failed ({cause}); "
                         "point --data-root or DATASTILL_DATA at a folder that contains it") from None


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Create ``folder``; if the block fails, remove the folders created here that are still empty."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):  # it existed before, was never created, or is not empty
            for path in new:
                path.rmdir()
        raise


def _missing(folder: Path, files: dict[str, str]) -> list[str]:
    missing = []
    for name, md5 in files.items():
        path = folder / name
        if not path.is_file():
            missing.append(name)
        elif (found := _md5(path)) != md5:
            raise InputError(f"{path} is damaged: md5 {found}, expected {md5}; delete it and run again to download it")
    return missing


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _read_idx(path: Path) -> np.ndarray:
    """A gzipped IDX file of bytes: 0, 0, 8, number of dimensions, each dimension (big-endian uint32), the bytes."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, dtype=">u4", count=raw[3], offset=4).astype(int)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()


def _unpickle(path: Path) -> dict[str, Any]:
    """A CIFAR batch. It is a pickle, so it is opened only after its md5 has been checked against the published one."""
    with path.open("rb") as file:
        return pickle.load(file, encoding="latin1")
