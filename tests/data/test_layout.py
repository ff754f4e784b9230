"""Layouts of image folders: splits by their usual names, and what is asked rather than guessed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from datastill.data._layout import Layout, layout, split_of
from kit import input_error


def found(place: Path, *names: str, nested: bool = False) -> tuple[Layout, Counter[str]]:
    """The layout of these folders, each with one image ("a/b" has one, "a/b/" none), and what is left out."""
    for name in names:
        (place / name).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            Image.new("L", (4, 4)).save(place / name / "0.png")
    left_out: Counter[str] = Counter()
    return layout(place, nested, left_out), +left_out


def folders(place: Path, layout: Layout) -> list[dict[str, str] | None]:
    """The folders of the classes of each split, relative."""
    return [split and {name: str(folder.relative_to(place)) for name, folder in split.classes.items()} for split in layout]


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "names"), [
    ("training", ["train", "Training", "TRAIN", "train_set", "Train-Set", "trainset", "training_data", "Training Images", "seg_train",
                  "train2017", "TrainData", "01_train", "trainval"]),
    ("test", ["test", "Testing", "TEST", "test_set", "testset", "Test Images", "seg_test", "testing-data"]),
    ("validation", ["val", "Valid", "validation", "dev", "Eval", "evaluation", "val_images", "val2017", "Validation Set"])])
def test_the_usual_names_are_known(split: str, names: list[str]) -> None:
    assert [split_of([name]) for name in names] == [{name: split} for name in names]


@pytest.mark.parametrize("name", ["trainer", "contest", "tester", "train_station", "test tube", "invalid", "devil", "evil", "sets", "data",
                                  "train test", "x", "12", "", "images", "Trainspotting", "cars_train", "protest", "valley"])
def test_other_names_are_classes(name: str) -> None:
    assert split_of([name]) == {}


def test_two_splits_of_one_thing_are_known() -> None:
    names = ["cars_train", "cars_test", "train_station", "dogs_val"]
    assert split_of(names) == {"cars_train": "training", "cars_test": "test"}


# --- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("train", "test"), [
    ("Training", "Testing"), ("TRAIN", "TEST"), ("train_set", "Test_Set"), ("Train", "val"), ("train", "Dev"), ("train", "eval"),
    ("trainval", "test"), ("cars_train", "cars_test")])
def test_splits_in_any_case(tmp_path: Path, train: str, test: str) -> None:
    read, left_out = found(tmp_path, *(f"{split}/{name}" for split in (train, test) for name in ("ant", "bee")))
    assert folders(tmp_path, read) == [{name: f"{split}/{name}" for name in ("ant", "bee")} for split in (train, test)] + [None]
    assert not left_out


@pytest.mark.parametrize("validation", ["val", "Dev", "validation", "eval"])
def test_test_and_validation_images_are_kept_apart(tmp_path: Path, validation: str) -> None:
    read, left_out = found(tmp_path, *(f"{split}/{name}" for split in ("train", "test", validation) for name in ("ant", "bee")))
    assert folders(tmp_path, read)[1:] == [{name: f"{split}/{name}" for name in ("ant", "bee")} for split in ("test", validation)]
    assert not left_out


def test_validation_images_of_other_classes_are_left_out(tmp_path: Path) -> None:
    read, left_out = found(tmp_path, *(f"{split}/{name}" for split in ("train", "test") for name in ("ant", "bee")), "val/cow", "val/dog", "val")
    assert read.validation is None
    assert left_out == {"images in val/": 3}


def test_folders_beside_the_splits_are_left_out_and_counted(tmp_path: Path) -> None:
    read, left_out = found(tmp_path, *(f"{split}/{name}" for split in ("train", "test") for name in ("ant", "bee")), "pred", "more/x", "docs/")
    assert read.validation is None
    assert left_out == {"images in pred/": 1, "images in more/": 1}


def test_a_split_may_contain_itself_once_more(tmp_path: Path) -> None:
    read, _ = found(tmp_path, *(f"seg_{split}/seg_{split}/{name}" for split in ("train", "test") for name in ("ant", "bee")))
    assert folders(tmp_path, read)[0] == {"ant": "seg_train/seg_train/ant", "bee": "seg_train/seg_train/bee"}


@pytest.mark.parametrize("splits", [("train", "test"), ("Training", "Val"), ("train", "test", "dev"), ("train",)])
def test_splits_in_the_folder_of_each_class(tmp_path: Path, splits: tuple[str, ...]) -> None:
    read, _ = found(tmp_path, *(f"{name}/{split}" for split in splits for name in ("ant", "bee")))
    wanted = [{name: f"{name}/{split}" for name in ("ant", "bee")} for split in splits]
    assert folders(tmp_path, read) == [*wanted, None, None][:3]


def test_classes_may_be_named_like_splits_inside_a_split(tmp_path: Path) -> None:
    read, _ = found(tmp_path, *(f"{split}/{name}" for split in ("train", "test") for name in ("bus", "test", "train")))
    assert list(read.train.classes) == ["bus", "test", "train"]


def test_folders_inside_classes_may_have_any_names(tmp_path: Path) -> None:
    for number, names in enumerate([("ape/young", "ape/old", "bee"), ("ape/images", "bee/images"), ("ape/young", "ape/old", "bee/x", "bee/y"),
                                    ("ape/young", "ape/old", "bee/young", "bee/old", "bee")]):
        read, _ = found(tmp_path / str(number), *names)
        assert list(read.train.classes) == ["ape", "bee"]


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "parts"), [
    (["train/a", "Training/a"], ("Training, train", "both named like training", "rename")),
    (["train/a", "test/a", "Testing/a"], ("Testing, test", "both named like test")),
    (["train/a", "val/a", "valid/a"], ("val, valid", "both named like validation")),
    (["test/a", "test/b"], ("contains test", "no folder of training images", "train/")),
    (["Testing/a", "val/b"], ("Testing, val", "no folder of training images")),
    (["test", "cat", "dog"], ("contains test beside cat, dog", "if test is a class, rename it")),
    (["train", "cat", "dog"], ("contains train and cat, dog", "if train is a class, rename it")),
    (["train/a", "train/b", "extra/a"], ("contains train and extra", "rename", "test/")),
    (["2019/cat", "2019/dog", "2020/cat", "2020/dog"], ("2019, 2020", "cat, dog", "data.path", "nested=true")),
    (["2019/cat", "2019/dog", "2020/cat", "2020/dog", "2020/cow"], ("2019, 2020", "cat, dog")),
    (["Covid/images", "Covid/masks", "Normal/images", "Normal/masks"], ("Covid, Normal", "images, masks")),
    (["train/2019/cat", "train/2019/dog", "train/2020/cat", "train/2020/dog"], ("2019, 2020", "cat, dog")),
    (["brain/Training/a", "brain/Testing/a"], ("contains only the folder brain", "Testing, Training", "set data.path to", "/brain")),
    (["all/cat", "all/dog"], ("contains only the folder all", "cat, dog", "/all")),
    (["cat/train", "cat/test", "dog"], ("cat contains test, train, which look like splits, and dog contains no folders", "train/CLASS/")),
    (["cat/train", "cat/test", "dog/train"], ("cat contains", "dog contains train")),
    (["cat/train", "cat/test", "dog/train", "dog/test", "dog"], ("dog contains test, train",)),
    (["cat/train", "cat/test", "dog/train", "dog/test", "dog/more"], ("dog contains more, test, train",)),
    (["cat/test", "dog/test"], (": cat contains test, which looks like a split; expected training images",)),
    (["cat", "dog", "dog/Test"], ("dog contains Test", "cat contains no folders")),
])
def test_what_is_not_clear_is_asked(tmp_path: Path, names: list[str], parts: tuple[str, ...]) -> None:
    with input_error(str(tmp_path), *parts):
        found(tmp_path, *names)


def test_classes_that_contain_equal_folders_on_request(tmp_path: Path) -> None:
    read, _ = found(tmp_path, "ape/young", "ape/old", "bee/young", "bee/old", nested=True)
    assert list(read.train.classes) == ["ape", "bee"]
