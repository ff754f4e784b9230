"""torchvision's sets: found, fetched, checked and read, without torchvision's own readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datastill.data import Data
from datastill.rng import RNG
from kit import input_error

NAMES = ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"]
each = pytest.mark.parametrize("published", NAMES, indirect=True)


@pytest.fixture
def published(publish: Callable[[str], Any], request: pytest.FixtureRequest) -> Any:
    return publish(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@each
def test_a_missing_set_is_fetched_once(published: Any, root: Path) -> None:
    train, validation, test = Data(source=published.name).load(root)
    assert validation is None
    for images, (pixels, targets) in ((train, published.train), (test, published.test)):
        assert np.array_equal(images.pixels.numpy(), pixels.transpose(0, 3, 1, 2))
        assert images.targets.tolist() == targets.tolist()
    published.site.close()
    assert Data(source=published.name).load(root).train.fingerprint == train.fingerprint


@each
def test_files_that_are_there_are_read_without_a_network(published: Any, root: Path) -> None:
    published.unpack(root)
    published.site.close()
    assert len(Data(source=published.name).load(root).train) == len(published.train[0])


@each
def test_a_missing_set_without_a_network_is_explained(published: Any, root: Path) -> None:
    published.site.close()
    first, *others = [root / path for path in published.contents]
    with input_error(f"looked for {first} and {len(others)} more", "download failed", "--data-root", "DATASTILL_DATA"):
        Data(source=published.name).load(root)


@each
@pytest.mark.parametrize("there", [False, True])
def test_a_missing_set_leaves_nothing_behind(published: Any, root: Path, there: bool) -> None:
    published.site.close()
    if there:
        root.mkdir()
    with input_error("download failed"):
        Data(source=published.name).load(root / "a" / "b")
    assert root.exists() == there
    assert not there or list(root.iterdir()) == []


@each
def test_one_missing_file_without_a_network_is_named(published: Any, root: Path) -> None:
    published.unpack(root)
    published.site.close()
    lost = root / list(published.contents)[1]
    lost.unlink()
    with input_error(f"looked for {lost}, "):
        Data(source=published.name).load(root)


@each
def test_one_missing_file_is_fetched(published: Any, root: Path) -> None:
    published.unpack(root)
    (root / list(published.contents)[1]).unlink()
    assert len(Data(source=published.name).load(root).test) == len(published.test[0])


@each
@pytest.mark.parametrize("number", [0, -1])
def test_a_damaged_file_is_named_and_left_alone(published: Any, root: Path, number: int) -> None:
    published.unpack(root)
    path, content = list(published.contents.items())[number]
    (root / path).write_bytes(content[:-1])
    with input_error(f"{root / path} is damaged", "md5", "delete it"):
        Data(source=published.name).load(root)
    assert (root / path).read_bytes() == content[:-1]


@each
def test_a_damaged_download_is_not_read(published: Any, root: Path) -> None:
    for file in published.site.folder.iterdir():
        file.write_bytes(b"a login page")
    with input_error("download failed", str(root)):
        Data(source=published.name).load(root)


def test_a_root_that_cannot_be_made_is_explained(publish: Callable[[str], Any], tmp_path: Path) -> None:
    publish("mnist")
    (tmp_path / "file").touch()
    with input_error(str(tmp_path / "file"), "--data-root"):
        Data(source="mnist").load(tmp_path / "file")


def test_the_fields_usual_statistics_are_used(publish: Callable[[str], Any], root: Path) -> None:
    publish("cifar10")
    train = Data(source="cifar10").load(root).train
    wanted = (train.pixels.numpy() / 255 - np.reshape(train.mean, (3, 1, 1))) / np.reshape(train.std, (3, 1, 1))
    got = train.batch(RNG(0).permutation(len(train)).sort().values).x
    assert np.allclose(got, wanted, atol=1e-5)
    assert train.mean == (0.4914, 0.4822, 0.4465)


def test_statistics_are_measured_where_the_channels_are_converted(publish: Callable[[str], Any], root: Path) -> None:
    publish("cifar10")
    train = Data(source="cifar10", channels=1).load(root).train
    assert train.shape == (1, 32, 32)
    assert abs(train.batch(train.of_class[0]).x.mean()) < 0.2
    assert len(train.mean) == len(train.std) == 1
