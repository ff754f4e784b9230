"""Images passed in from Python: a source that records this and cannot be loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

import datastill as ds
import tiny
from datastill.data.given import Given
from datastill.description import load
from datastill.digest import dump
from datastill.report import report
from datastill.run import read_run
from kit import input_error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Distilled from a torch dataset."""
    place = tmp_path_factory.mktemp("given") / "run"
    pairs = TensorDataset(torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2)
    ds.distill(ds.DM(iterations=1, batch_real=4), pairs, place, ipc=1, network=tiny.NETWORK)
    return place


def test_it_cannot_be_loaded_and_says_what_to_do(tmp_path: Path) -> None:
    for source, name in ((Given(label="Pairs"), " (Pairs) "), (Given(), " ")):
        with input_error(f"passed in from Python{name}and cannot be loaded here", "datastill.score(folder, images, train=images)"):
            ds.Data(source=source).load(tmp_path)


def test_it_comes_back_from_a_table() -> None:
    data = ds.Data(source=Given(label="Pairs"))
    assert dump(data)["source"] == {"kind": "given", "label": "Pairs"}
    assert load(ds.Data, dump(data)) == data


def test_card_and_run_file_say_what_it_was_made_of(folder: Path) -> None:
    card = ds.load(folder).card
    assert card["data"]["name"] == "TensorDataset"
    assert read_run(folder).data == load(ds.Run, card["run"]).data == ds.Data(source=Given(label="TensorDataset"))


def test_the_same_images_under_another_name_are_another_run_and_the_default_folder_is_named_by_it(tmp_path: Path) -> None:
    images = ds.Images.from_dataset(TensorDataset(torch.rand(20, 1, 8, 8), torch.arange(20) % 2))
    options = {"ipc": 1, "network": tiny.NETWORK, "root": tmp_path}
    first = ds.distill(ds.DM(iterations=0), images, **options)
    assert ds.distill(ds.DM(iterations=0), images, **options).card == first.card
    (place,) = (tmp_path / "runs").iterdir()
    assert place.name == f"distribution-TensorDataset-ipc1-{first.card['digest']}"
    ds.distill(ds.DM(iterations=0), replace(images, origin="other"), **options)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_its_folder_is_read_and_reported_and_not_distilled_again_elsewhere(folder: Path, tmp_path: Path) -> None:
    assert len(ds.load(folder)) == 2
    assert report([folder], tmp_path / "page.html").exists()
    with input_error("passed in from Python (TensorDataset)"):
        ds.Workspace(tmp_path, tmp_path).distill(read_run(folder), tmp_path / "again")
    assert not (tmp_path / "again").exists()
