"""Exports: what other tools read."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import ImageFolder

import datastill as ds
import tiny
from datastill import export
from datastill.errors import InputError
from datastill.export import _folder_names, to_folder, to_npz
from datastill.files import write_atomically
from kit import input_error, toy_images


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> ds.artifact.Distilled:
    folder = tmp_path_factory.mktemp("export") / "run"
    tiny.distill(tiny.run(ipc=2), folder)
    return ds.load(folder)


def test_image_folder_keeps_pixels_classes_and_order(distilled: ds.artifact.Distilled, tmp_path: Path) -> None:
    to_folder(distilled, tmp_path / "out")
    read = ImageFolder(str(tmp_path / "out"))
    assert read.targets == distilled.y.argmax(1).tolist()
    for (image, _), view in zip(read, distilled.view.numpy(), strict=True):
        assert np.array_equal(np.asarray(image.convert("L")), view[..., 0])
    rows = list(csv.reader((tmp_path / "out" / "labels.csv").open()))
    assert rows[0] == ["file", *distilled.classes]
    assert len(rows) == 21
    with pytest.raises(InputError, match="not empty"):
        to_folder(distilled, tmp_path / "out")


def test_class_names_become_safe_folders_in_class_order() -> None:
    names = _folder_names(("T-shirt/top", "Ankle boot", "a..b", "ä/ö"))
    assert names == ["0_T-shirt_top", "1_Ankle boot", "2_a..b", "3_ä_ö"]
    assert sorted(_folder_names(tuple("ba" * 6))) == _folder_names(tuple("ba" * 6))


def test_class_names_come_back(tmp_path: Path) -> None:
    names = ("Grün", "roter Fuß", "鱼")
    images = replace(toy_images(classes=3, per_class=4, shape=(3, 8, 8)), classes=names)
    ds.distill("random", images, tmp_path / "run", ipc=2, network=tiny.NETWORK)
    loaded = ds.load(tmp_path / "run")
    to_folder(loaded, tmp_path / "out" / "train")
    again = ds.Data(source="folder", path=str(tmp_path / "out"), test=0.5).load(tmp_path)
    assert again.train.classes == names
    with np.load(to_npz(loaded, tmp_path / "set")) as file:
        assert tuple(file["classes"]) == names


def test_npz_of_two_images_a_class_is_a_data_set_again(distilled: ds.artifact.Distilled, tmp_path: Path) -> None:
    path = to_npz(distilled, tmp_path / "set")
    assert path.name == "set.npz"
    with np.load(path) as file:
        assert np.array_equal(file["images"], distilled.x.numpy())
        assert tuple(file["classes"]) == distilled.classes
    again = ds.Data(source="npz", path="set.npz", test=0.5).load(tmp_path)
    assert len(again.train) + len(again.test) == 20
    assert again.train.classes == distilled.classes


def test_npz_of_one_image_a_class_needs_test_images_of_your_own(tmp_path: Path) -> None:
    tiny.distill(tiny.run(ipc=1), tmp_path / "run")
    path = to_npz(ds.load(tmp_path / "run"), tmp_path / "set")
    with input_error("has 1 image, too few"):
        ds.Data(source="npz", path="set.npz").load(tmp_path)
    with np.load(path) as file:
        np.savez(path, **file, x_test=file["x_train"], y_test=file["y_train"])
    assert len(ds.Data(source="npz", path="set.npz").load(tmp_path).train) == 10


@pytest.mark.parametrize("channels", [2, 5])
def test_other_numbers_of_channels_are_distilled_scored_and_exported_as_arrays(channels: int, tmp_path: Path) -> None:
    pixels = (torch.rand(24, channels, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).byte()
    labels = torch.arange(24) % 2
    made = ds.distill(ds.DM(iterations=1, batch_real=4), (pixels, labels), tmp_path / "run", ipc=2, network=tiny.NETWORK)
    assert made.x.shape == (4, channels, 8, 8)
    assert ds.score(made, (pixels.flip(0, 3), labels), train=(pixels, labels), protocol="dc:epochs=1", trials=1, root=tmp_path).sheets
    assert "the first" in ds.Workspace.report([tmp_path / "run"]).read_text()
    with input_error(f"{channels} channels", "file.npz"):
        to_folder(made, tmp_path / "images")
    assert not (tmp_path / "images").exists()
    again = ds.Data(source="npz", path=str(to_npz(made, tmp_path / "set.npz")), test=0.5).load(tmp_path).train
    assert again.shape == (channels, 8, 8)


@pytest.mark.parametrize("after", range(12))
def test_an_export_killed_while_files_are_moved_is_done_again(
        distilled: ds.artifact.Distilled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    left, replaced = iter(range(after)), Path.replace

    def replace(path: Path, target: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        replaced(path, target)

    out = tmp_path / "out"
    monkeypatch.setattr(Path, "replace", replace)
    if after == 11:  # everything is moved
        monkeypatch.setattr(Path, "rmdir", lambda path: replace(path, path))
    with pytest.raises(KeyboardInterrupt):
        to_folder(distilled, out)
    monkeypatch.undo()
    if after < 11:
        assert not (out / "labels.csv").exists()
    if after:
        (out / "mine.txt").write_text("mine")
        with input_error("not empty"):
            to_folder(distilled, out)
        (out / "mine.txt").unlink()
    to_folder(distilled, out)
    to_folder(distilled, tmp_path / "whole")
    files = [{str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
             for folder in (out, tmp_path / "whole")]
    assert files[0] == files[1]
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("after", [0, 1, 13, 20])
def test_an_interrupted_export_is_done_again(
        distilled: ds.artifact.Distilled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    left = iter(range(after))

    def write(path: Path, content: bytes) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        write_atomically(path, content)

    monkeypatch.setattr(export, "write_atomically", write)
    with pytest.raises(KeyboardInterrupt):
        to_folder(distilled, tmp_path / "out")
    monkeypatch.undo()
    for name in ("out", "whole"):
        to_folder(distilled, tmp_path / name)
    files = [{str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
             for name in ("out", "whole")]
    assert files[0] == files[1]
    assert len(files[0]) == 21
