"""SVHN: ten means nought, and the files may lie where torchvision's loader puts them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torchvision import datasets

from datastill.data import Data
from kit import input_error


def test_digits_are_in_order_and_colors_too(publish: Callable[[str], Any], tmp_path: Path) -> None:
    published = publish("svhn")
    train, _, test = Data(source="svhn").load(tmp_path)
    assert train.classes == tuple("0123456789")
    assert train.shape == (3, 32, 32)
    assert train.targets.tolist() == list(range(10)) * 3
    assert test.targets.tolist() == list(range(10))
    assert train.pixels[7, :, 2, 5].tolist() == published.train[0][7, 2, 5].tolist()
    assert (train.mean, train.std) == ((0.4377, 0.4438, 0.4728), (0.198, 0.201, 0.197))


def test_the_files_read_as_torchvision_reads_them(publish: Callable[[str], Any], tmp_path: Path) -> None:
    publish("svhn")
    train = Data(source="svhn").load(tmp_path).train
    theirs = datasets.SVHN(str(tmp_path / "SVHN"), "train")
    assert (train.pixels.numpy() == theirs.data).all()
    assert train.targets.tolist() == theirs.labels.tolist()


def test_files_in_the_root_itself_are_found(publish: Callable[[str], Any], tmp_path: Path) -> None:
    published = publish("svhn")
    published.site.close()
    for path, content in published.contents.items():
        (tmp_path / Path(path).name).write_bytes(content)
    assert len(Data(source="svhn").load(tmp_path).train) == 30
    assert not (tmp_path / "SVHN").exists()


@pytest.mark.parametrize("folder", ["SVHN", "."])
def test_a_damaged_file_is_named_in_both_places(publish: Callable[[str], Any], tmp_path: Path, folder: str) -> None:
    publish("svhn")
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "test_32x32.mat").write_bytes(b"half of it")
    with input_error(f"{tmp_path / folder / 'test_32x32.mat'} is damaged"):
        Data(source="svhn").load(tmp_path)


def test_a_folder_with_nothing_of_it_does_not_hide_the_root(publish: Callable[[str], Any], tmp_path: Path) -> None:
    published = publish("svhn")
    published.site.close()
    (tmp_path / "SVHN").mkdir()
    for path, content in published.contents.items():
        (tmp_path / Path(path).name).write_bytes(content)
    assert len(Data(source="svhn").load(tmp_path).test) == 10
