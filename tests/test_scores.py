"""What a set is worth, from Python: against a hand computation, on images of any kind, refused before anything is trained."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

import datastill as ds
import tiny
from datastill import trials
from kit import Told, input_error

PROTOCOL, STUDENTS = "dc:epochs=4,lr=0.1,augment=none", ["mlp:width=8", "convnet:width=4,depth=1"]


class Pairs:
    """A map-style dataset of digits: (image (1, 8, 8) float in [0, 1], number)."""

    classes = tuple("0123456789")

    def __init__(self, images: ds.Images, rows: range) -> None:
        self.items = [(images.pixels[row].float() / 255, int(images.targets[row])) for row in rows]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.items[index]


TRAIN, TEST = Pairs(tiny.splits().train, range(200)), Pairs(tiny.splits().test, range(100))


@pytest.fixture(scope="module")
def train() -> ds.Images:
    return ds.Images.from_dataset(TRAIN)


@pytest.fixture(scope="module")
def folder(train: ds.Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images a class of images that were handed over."""
    place = tmp_path_factory.mktemp("scores") / "run"
    ds.distill(ds.DM(iterations=2, batch_real=8), train, place, ipc=2, network=tiny.NETWORK)
    return place


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in another process, where no images are alive."""
    monkeypatch.setattr("datastill.scores.at_hand", lambda fingerprint: None)


def score(folder: Path, images: Any = TEST, **options: Any) -> ds.Scores:
    return ds.score(folder, images, **{"networks": STUDENTS[0], "protocol": PROTOCOL, "trials": 1, "root": folder.parent / "root", **options})


def accuracies(scores: ds.Scores, subject: str = "synthetic") -> dict[str, list[float]]:
    return {name: [one["accuracy"] for one in sheet[subject]] for name, sheet in scores.sheets.items()}


def test_gain_and_interval_are_those_of_the_sheets(folder: Path) -> None:
    found = score(folder, networks=STUDENTS, trials=3, seed=11)
    kept = [json.loads(path.read_text()) for path in (folder / "scores").glob("*.json")]
    kept = [sheet for sheet in kept if sheet["seed"] == 11]
    assert sorted(sheet["network"] for sheet in kept) == sorted(found) == sorted(STUDENTS)
    gains = [sum(sheet["synthetic"][t]["accuracy"] - sheet["random"][t]["accuracy"] for sheet in kept) / 2 for t in range(3)]
    mean = sum(gains) / 3
    half = stats.t.ppf(0.975, 2) * math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 2) / math.sqrt(3)
    assert found.gain == pytest.approx(mean, abs=1e-12)
    assert found.interval == pytest.approx((mean - half, mean + half), abs=1e-12)
    assert half > 0
    assert found.accuracy == {sheet["network"]: pytest.approx(sum(one["accuracy"] for one in sheet["synthetic"]) / 3) for sheet in kept}
    assert found.flags == {name: found[name]["flags"] for name in found}
    assert (len(found), list(found)) == (2, STUDENTS)


def test_a_single_trial_has_no_interval(folder: Path) -> None:
    found = score(folder, trials=1, seed=12)
    assert math.isfinite(found.gain)
    assert all(math.isnan(end) for end in found.interval)


def test_only_what_is_missing_is_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, told = score(folder, trials=2, seed=13), Told()
    with monkeypatch.context() as patch:
        patch.setattr(trials, "student", None)  # would fail if it were called
        assert score(folder, trials=2, seed=13, progress=told).sheets == first.sheets
        assert score(folder, trials=1, seed=13).sheets == first.sheets
    more = score(folder, trials=3, seed=13, progress=told)
    assert accuracies(more)[STUDENTS[0]][:2] == accuracies(first)[STUDENTS[0]]
    assert {note for *_, note in told.told} == {"synthetic, trial 3", "random, trial 3"}


def test_unless_given_the_runs_network_and_dc(folder: Path) -> None:
    found = score(folder, networks=(), trials=1)
    assert list(found) == [tiny.NETWORK]
    card = ds.load(folder).card
    assert "protocol" not in card
    recipe = {**card, "protocol": {"kind": "dc", "epochs": 2, "augment": "none"}}
    other = folder.parent / "recipe"
    ds.distill(ds.DM(iterations=0), ds.Images.from_dataset(TRAIN), other, network=tiny.NETWORK, ipc=1, about={"protocol": recipe["protocol"]})
    assert score(other, networks=(), protocol=None)[tiny.NETWORK]["protocol"]["epochs"] == 2


def test_full_data_too(folder: Path) -> None:
    found = score(folder, protocol="dc:epochs=2,full_epochs=2,augment=none", full=True)
    assert len(found[STUDENTS[0]]["full"]) == 1


def test_training_images_that_are_alive_need_not_be_given(folder: Path, train: ds.Images) -> None:
    assert train.fingerprint == ds.load(folder).card["data"]["fingerprint"]
    alive = score(folder, seed=14)
    assert score(folder, seed=14, train=TRAIN).sheets == alive.sheets
    assert score(folder, seed=14, train=train).sheets == alive.sheets


@pytest.mark.usefixtures("forgotten")
def test_training_images_that_are_not_alive_are_asked_for(folder: Path) -> None:
    with input_error(str(folder), "passed in from Python (Pairs)", "train=images"):
        score(folder, seed=15)
    assert 0 <= score(folder, seed=15, train=TRAIN).accuracy[STUDENTS[0]] <= 1


@pytest.mark.usefixtures("forgotten")
def test_images_that_can_be_loaded_are(tmp_path: Path) -> None:
    tiny.distill(tiny.run(), tmp_path / "run")
    found = score(tmp_path / "run", tiny.splits().test)
    assert ds.load(tmp_path / "run").card["data"]["fingerprint"] == tiny.splits().train.fingerprint
    assert score(tmp_path / "run", tiny.splits().test, train=tiny.splits().train).sheets == found.sheets


def test_images_normalized_otherwise_are_brought_over(folder: Path, train: ds.Images) -> None:
    plain = ds.Images.from_dataset(TEST, like=train)
    other = replace(plain, mean=(0.0,), std=(1.0,))
    assert (plain.mean, plain.std) == (train.mean, train.std)
    assert score(folder, plain, seed=16).sheets == score(folder, other, seed=16).sheets == score(folder, TEST, seed=16).sheets
    assert len([path for path in (folder / "scores").glob("*.json") if json.loads(path.read_text())["seed"] == 16]) == 1


def test_images_are_whitened_as_the_training_images_are(tmp_path: Path) -> None:
    whitened = ds.Data(source="digits", zca=True).load(tmp_path)  # type: ignore[arg-type]
    plain = ds.Data(source="digits").load(tmp_path)  # type: ignore[arg-type]
    ds.distill(ds.DM(iterations=0), whitened.train, tmp_path / "white", network=tiny.NETWORK, ipc=1)
    there = score(tmp_path / "white", whitened.test)
    assert score(tmp_path / "white", plain.test).sheets == there.sheets
    ds.distill(ds.DM(iterations=0), plain.train, tmp_path / "plain", network=tiny.NETWORK, ipc=1)
    assert score(tmp_path / "plain", whitened.test).sheets == score(tmp_path / "plain", plain.test).sheets


def test_what_cannot_be_scored_is_refused_before_anything_is_trained(folder: Path, train: ds.Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "student", None)  # would fail if it were called
    with input_error("trials: expected a whole number, 1 or more, got 0"):
        score(folder, trials=0)
    with input_error("holds no distilled set"):
        score(tmp_path)
    with input_error("not the training images", train.fingerprint):
        score(folder, train=Pairs(tiny.splits().train, range(150)))
    test = ds.Images.from_dataset(TEST, like=train)
    with input_error("there are no images to score on"):
        score(folder, test.subset(torch.arange(0)))
    with input_error("differ in classes"):
        score(folder, replace(test, classes=tuple("abcdefghij")), seed=17)
    with input_error("differ in shape"):
        score(folder, replace(test, pixels=test.pixels.repeat(1, 1, 2, 2)), seed=17)  # type: ignore[union-attr]
    with input_error("lenet does not fit images of 8x8"):
        score(folder, networks="lenet")
    with input_error("unknown network 'mpl'"):
        score(folder, networks=[STUDENTS[0], "mpl"])
    with input_error("unknown protocol 'dcc'"):
        score(folder, protocol="dcc")
    with input_error("learned with a set"):
        score(folder, protocol="mtt")
    with input_error("split"):
        score(folder, split="testt", seed=17)


def test_a_set_that_knows_its_folder_is_scored(folder: Path) -> None:
    there = score(folder, seed=21)
    loaded = ds.load(folder)
    for subject in (loaded, loaded.to(torch.device("cpu"))):
        assert ds.score(subject, TEST, networks=STUDENTS[0], protocol=PROTOCOL, trials=1, root=folder.parent / "root", seed=21).sheets == there.sheets
    lost = ds.Distilled(loaded.tensors, loaded.card)
    for nothing in (None, lost, 5, TEST):
        with input_error("folder: expected a path"):
            ds.score(nothing, TEST)  # type: ignore[arg-type]


def test_any_dataset_is_scored(folder: Path) -> None:
    there = score(folder, seed=22)
    pixels, targets = torch.stack([x for x, _ in TEST.items]), torch.tensor([y for _, y in TEST.items])
    for given in ((pixels, targets), torch.utils.data.TensorDataset(pixels, targets), (pixels.numpy()[:, 0], targets.numpy())):
        assert score(folder, given, seed=22).sheets == there.sheets


@pytest.mark.parametrize(("options", "parts"), [
    ({"trials": 1.5}, ("trials", "whole number")), ({"trials": True}, ("trials", "True")), ({"seed": -1}, ("seed",)), ({"seed": 2**64}, ("seed",)), ({"networks": 5}, ("networks", "5")), ({"networks": [5]}, ("5",)),
    ({"networks": None}, ("networks",)), ({"images": None}, ("NoneType",)), ({"images": "test"}, ("'test'",)), ({"images": tiny.splits()}, ("splits.test",)), ({"train": 5}, ("int",)), ({"protocol": 5}, ("5",)),
])
def test_what_makes_no_sense_is_refused_in_one_line(folder: Path, options: dict[str, Any], parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        score(folder, **options)


def test_the_training_images_are_not_what_a_set_is_scored_on(folder: Path, train: ds.Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "student", None)  # would fail if it were called
    for images in (train, TRAIN):
        with input_error("the images to score on are the training images", train.fingerprint):
            score(folder, images, seed=23)


def test_scored_images_that_are_training_images_too_are_flagged(folder: Path, train: ds.Images) -> None:
    mixed = ds.Images.from_dataset(Pairs(tiny.splits().train, range(50)), like=train)
    sheet = score(folder, mixed, seed=24)[STUDENTS[0]]
    assert (sheet["repeated"], sheet["images"], sheet["scored"]) == (50, 50, mixed.fingerprint)
    assert "50 of the 50 scored images are training images too" in sheet["flags"]
    sheet = score(folder, seed=24)[STUDENTS[0]]
    assert not [flag for flag in sheet["flags"] if "training images too" in flag]
    assert sheet["scored"] == ds.Images.from_dataset(TEST, like=train).fingerprint
