"""Small datasets in their original formats, written by the tests that read them."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets

from datastill.data import Data

Pair = tuple[np.ndarray, np.ndarray]  # images (N, H, W, C) uint8, targets (N,)


def pictures(classes: int, per_class: int, side: int = 6, channels: int = 1, seed: int = 0) -> Pair:
    """Random images with targets 0, 1, ..., 0, 1, ..."""
    count = classes * per_class
    images = np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return images, np.arange(count) % classes


# --- one .npz file ----------------------------------------------------------------------------------------------------


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Data]:
    """Write arrays into ``tmp_path/set.npz``, 3 classes of 10 training images where none are given, and describe it."""
    def write(options: dict[str, Any] | None = None, **arrays: Any) -> Data:
        x, y = pictures(3, 10)
        np.savez(tmp_path / "set.npz", **{"x_train": x, "y_train": y, **arrays})
        return Data(source="npz", path="set.npz", **(options or {}))

    return write


# --- a tree of image files --------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Data]:
    """Write PNG files into ``tmp_path/tree``, ``{"train/cat": [picture, ...]}``, and describe it."""
    def write(folders: dict[str, list[Image.Image]], **options: Any) -> Data:
        for name, images in folders.items():
            folder = tmp_path / "tree" / name
            folder.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(images):
                image.save(folder / f"{number:02d}.png")
        return Data(source="folder", path="tree", **options)

    return write


# --- torchvision's sets, published on a site in tmp_path --------------------------------------------------------------


class Handler(SimpleHTTPRequestHandler):
    """Offers the files of a folder, in silence."""

    def log_message(self, *_: object) -> None:
        pass


class Site:
    """A web site on this machine that offers the files in ``folder`` until it is closed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "site").mkdir()
    site = Site(tmp_path / "site")
    yield site
    site.close()


@dataclass(frozen=True)
class Published:
    """A set whose files a test site offers: ``contents`` by path under the data root, the arrays they hold."""

    name: str
    site: Site
    contents: dict[str, bytes]
    train: Pair
    test: Pair

    def unpack(self, root: Path) -> None:
        """Put the files where they are looked for, as if fetched before."""
        for path, content in self.contents.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)


def idx(array: np.ndarray) -> bytes:
    """The gzipped IDX format of bytes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def publish(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Published]:
    """Publish a small set in the format of this source and point torchvision's class at it."""
    def of_kind(name: str) -> Published:
        kind = publish_svhn if name == "svhn" else publish_idx if name in IDX else publish_cifar
        return kind(name, site, monkeypatch)

    return of_kind


IDX = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}
CIFAR = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


def publish_idx(name: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> Published:
    dataset = IDX[name]
    train, test = pictures(10, 3, 28), pictures(10, 1, 28, seed=1)
    arrays = (train[0][..., 0], train[1], test[0][..., 0], test[1])
    files = {file: idx(array) for (file, _), array in zip(dataset.resources, arrays, strict=True)}
    for file, content in files.items():
        (site.folder / file).write_bytes(content)
    monkeypatch.setattr(dataset, "resources", [(file, md5(content)) for file, content in files.items()])
    monkeypatch.setattr(dataset, "mirrors", [site.url])
    contents = {f"{dataset.__name__}/raw/{file}": content for file, content in files.items()}
    return Published(name, site, contents, train, test)


def publish_cifar(name: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> Published:
    dataset, classes = CIFAR[name], {"cifar10": 10, "cifar100": 100}[name]
    train, test = pictures(classes, 2, 32, 3), pictures(classes, 1, 32, 3, seed=1)
    batches = [file for file, _ in dataset.train_list]
    parts = [np.array_split(array, len(batches)) for array in train]
    files = {file: batch(name, pair) for file, pair in zip(batches, zip(*parts, strict=True), strict=True)}
    files[dataset.test_list[0][0]] = batch(name, test)
    files[dataset.meta["filename"]] = pickle.dumps({dataset.meta["key"]: [f"class {i}" for i in range(classes)]})
    contents = {f"{dataset.base_folder}/{file}": content for file, content in files.items()}
    archive = tar(contents)
    (site.folder / dataset.filename).write_bytes(archive)
    monkeypatch.setattr(dataset, "url", site.url + dataset.filename)
    monkeypatch.setattr(dataset, "tgz_md5", md5(archive))
    monkeypatch.setattr(dataset, "train_list", [[file, md5(files[file])] for file in batches])
    monkeypatch.setattr(dataset, "test_list", [[file, md5(files[file])] for file, _ in dataset.test_list])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5(files[dataset.meta["filename"]])})
    return Published(name, site, contents, train, test)


def publish_svhn(name: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> Published:
    """The two files; the third split of torchvision's class stays out of reach."""
    train, test = pictures(10, 3, 32, 3), pictures(10, 1, 32, 3, seed=1)
    files = {"train_32x32.mat": mat(train), "test_32x32.mat": mat(test)}
    for file, content in files.items():
        (site.folder / file).write_bytes(content)
    split_list = {file.split("_")[0]: [site.url + file, file, md5(content)] for file, content in files.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", {**datasets.SVHN.split_list, **split_list})
    return Published(name, site, {f"SVHN/{file}": content for file, content in files.items()}, train, test)


def mat(pair: Pair) -> bytes:
    """X (H, W, C, N) and y (N, 1), where a nought is a ten."""
    buffer = io.BytesIO()
    labels = np.where(pair[1] == 0, 10, pair[1]).astype(np.uint8)[:, None]
    scipy.io.savemat(buffer, {"X": pair[0].transpose(1, 2, 3, 0), "y": labels}, do_compression=True)
    return buffer.getvalue()


def batch(name: str, pair: Pair) -> bytes:
    """A batch of CIFAR: rows of 1024 red, 1024 green, 1024 blue values."""
    rows = np.concatenate([pair[0][..., color].reshape(len(pair[0]), -1) for color in range(3)], axis=1)
    fine = {"cifar10": "labels", "cifar100": "fine_labels"}[name]
    return pickle.dumps({"data": rows, fine: pair[1].tolist(), "coarse_labels": [0] * len(rows)})


def tar(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, content in contents.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
