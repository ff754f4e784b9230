"""Image files with their labels in a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datastill.data import Data
from kit import input_error

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 6, 6), dtype=np.uint8)
NAMES = [f"im{number}.png" for number in range(9)]
LABELS = ["ant", "bee", "cow"] * 3
Csv = Callable[..., Data]


def rows(*columns: list[str], header: str = "file,label", separator: str = ",") -> str:
    return "\n".join([header, *(separator.join(row) for row in zip(*columns, strict=True))]) + "\n"


@pytest.fixture
def table(tmp_path: Path) -> Csv:
    """Write nine gray images and a table of them, and describe it."""
    def write(text: str, source: str = "csv", folder: str = ".", encoding: str = "utf-8", **options: Any) -> Data:
        (tmp_path / folder).mkdir(exist_ok=True)
        for name, pixels in zip(NAMES, PIXELS, strict=True):
            Image.fromarray(pixels).save(tmp_path / folder / name)
        (tmp_path / "labels.csv").write_text(text, encoding=encoding)
        return Data(source=source, path="labels.csv", **{"test": 0.3, **options})

    return write


def test_rows_become_images_with_their_labels(table: Csv, tmp_path: Path) -> None:
    splits = table(rows(NAMES, LABELS)).load(tmp_path)
    assert splits.train.classes == ("ant", "bee", "cow")
    assert (len(splits.train), splits.validation, len(splits.test), splits.train.shape) == (6, None, 3, (1, 6, 6))
    seen = {images.pixels[row].numpy().tobytes(): images.classes[images.targets[row]] for images in (splits.train, splits.test) for row in range(len(images))}
    assert seen == {pixels.tobytes(): label for pixels, label in zip(PIXELS, LABELS, strict=True)}


@pytest.mark.parametrize(("header", "separator"), [
    ("file,label", ","), ("Image Path;Class", ";"), ("filename\tTarget", "\t"), ('"image","category"', ","), (" image_id , class ", ",")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_usual_names_and_separators(table: Csv, tmp_path: Path, header: str, separator: str, encoding: str) -> None:
    assert len(table(rows(NAMES, LABELS, header=header, separator=separator), encoding=encoding).load(tmp_path).train) == 6


def test_columns_and_folder_can_be_named(table: Csv, tmp_path: Path) -> None:
    text = rows([name[:-4] for name in NAMES], LABELS, ["x"] * 9, ["Training", "train", "TRAIN"] + ["val"] * 3 + ["test"] * 3, header="id,diagnosis,label,fold")
    train, validation, test = table(text, "csv:file=id,label=diagnosis,split=fold,folder=pictures", folder="pictures").load(tmp_path)
    assert validation is not None
    for images, start in ((train, 0), (validation, 3), (test, 6)):
        assert np.array_equal(images.pixels[:, 0].numpy(), PIXELS[start:start + 3])  # type: ignore[union-attr]
    assert train.mean == validation.mean == test.mean


def test_validation_rows_are_the_test_split_if_there_is_no_other(table: Csv, tmp_path: Path) -> None:
    train, validation, test = table(rows(NAMES, LABELS, ["train"] * 6 + ["valid"] * 3, header="file,label,split")).load(tmp_path)
    assert (len(train), validation, len(test)) == (6, None, 3)


def test_numbers_are_class_names_in_their_order(table: Csv, tmp_path: Path) -> None:
    assert table(rows(NAMES, ["9", "10", "100"] * 3)).load(tmp_path).train.classes == ("9", "10", "100")
    assert table(rows(NAMES, ["9", "10", "100"] * 3), classes="100,9").load(tmp_path).train.classes == ("100", "9")


def test_quoted_values_and_paths_of_windows(table: Csv, tmp_path: Path) -> None:
    names = [f'"pictures\\{name}"' for name in NAMES]
    labels = ['"shark, white"', '"a ""b"""', "ünd"] * 3
    assert table(rows(names, labels), folder="pictures").load(tmp_path).train.classes == ('a "b"', "shark, white", "ünd")


def test_repeated_rows_count_once(table: Csv, tmp_path: Path) -> None:
    splits = table(rows(NAMES * 2, LABELS * 2)).load(tmp_path)
    assert len(splits.train) + len(splits.test) == 9


@pytest.mark.parametrize(("text", "source", "parts"), [
    (rows(NAMES, LABELS, header="id,diagnosis"), "csv", ("no column with a usual name for the file", "'id', 'diagnosis'", "csv:file=")),
    (rows(NAMES, LABELS, header="file,diagnosis"), "csv", ("no column with a usual name for the label", "'diagnosis'")),
    (rows(NAMES, LABELS), "csv:label=diagnosis", ("no column 'diagnosis' for the label", "'file', 'label'")),
    (rows(NAMES, LABELS, LABELS, header="file,label,class"), "csv", ("2 columns that may be the label",)),
    (rows(NAMES, ["0", "1", "0"] * 3, ["1", "0", "0"] * 3, header="image,MEL,NV"), "csv", ("one-hot or multi-label", "'MEL', 'NV'")),
    (rows(NAMES, ["ant|bee", "bee", "ant"] * 3), "csv", ("'ant|bee'", "multi-label")),
    (rows(NAMES, ['"ant;bee"', "bee", "ant"] * 3), "csv", ("'ant;bee'", "multi-label")),
    (rows(["a.png", "b.png", *NAMES[2:]], LABELS), "csv", ("2 of 9 files are missing", "'a.png', 'b.png'", "csv:folder=")),
    (rows(NAMES, LABELS), "csv:folder=nowhere", ("9 of 9 files are missing", "'im0.png', 'im1.png', 'im2.png', ...")),
    (rows([*NAMES, "im0.png"], [*LABELS, "bee"]), "csv", ("'im0.png' occurs with two labels, 'ant' and 'bee'",)),
    (rows([*NAMES, "im0.png"], [*LABELS, "ant"], ["train"] * 9 + ["test"], header="file,label,split"), "csv", ("'im0.png' occurs with two splits",)),
    (rows(NAMES, LABELS, ["1"] * 9, header="file,label,split"), "csv", ("row 2", "split '1'", "train, val or test")),
    (rows(NAMES, LABELS, ["train"] * 8 + [""], header="file,label,split"), "csv", ("row 10", "split ''")),
    (rows(NAMES, LABELS, ["test"] * 9, header="file,label,split"), "csv", ("no rows for training",)),
    (rows(NAMES, ["", *LABELS[1:]]), "csv", ("row 2 has no label",)),
    ("file,label\nim0.png,ant,1\n", "csv", ("row 2 has 3 values", "2 columns")), ("file,label\nim0.png\n", "csv", ("row 2 has 1 value,", "2 columns")),
    ("", "csv", ("its columns are none",)), ("file,label\n", "csv", ("no rows",)), ('file,label\n"im0.png,ant\n', "csv", ("cannot be read as .csv",)),
    (rows(NAMES, ["ant"] * 9), "csv", ("1 class",)), (rows(["x" * 999, *NAMES[1:]], LABELS), "csv", ("1 of 9 files are missing",)),
    (rows(['"a\nb"', *NAMES[1:]], LABELS), "csv", ("'a\\nb'",)), (rows(NAMES, LABELS), "csv:folder=~nobody-of-this-name", ("9 of 9 files are missing",)),
    (rows(NAMES, LABELS), "csv:group=lesion", ("no column 'lesion' for the group", "'file', 'label'")),
    (rows(NAMES, LABELS, ["a"] * 8 + [""], header="file,label,lesion"), "csv:group=lesion", ("row 10 has no lesion", "every row")),
    (rows([*NAMES, "im0.png"], [*LABELS, "ant"], ["a"] * 9 + ["b"], header="file,label,lesion"), "csv:group=lesion", ("'im0.png' occurs with two groups, 'a' and 'b'",)),
    (rows(NAMES, LABELS, ["a"] * 9, header="file,label,lesion"), "csv:group=lesion", ("class 'ant' has 3 images of 1 group, too few to hold some out",)),
    (rows(NAMES, LABELS), "csv:labl=x", ("labl", "did you mean 'label'")),
])
def test_a_wrong_table_is_explained(table: Csv, tmp_path: Path, text: str, source: str, parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        table(text, source).load(tmp_path)


def test_other_encodings_and_files_are_named(table: Csv, tmp_path: Path) -> None:
    for encoding in ("latin-1", "utf-16"):
        with input_error("labels.csv cannot be read as .csv in UTF-8"):
            table(rows(NAMES, ["é", "bee", "cow"] * 3), encoding=encoding).load(tmp_path)
    with input_error("no file", "data.path"):
        Data(source="csv", path="nothing.csv").load(tmp_path)
    data = table(rows(NAMES, LABELS))
    (tmp_path / "im4.png").write_bytes(b"no picture")
    with input_error("im4.png cannot be read as an image"):
        data.load(tmp_path)


def test_a_name_without_suffix_that_two_files_have_is_refused(table: Csv, tmp_path: Path) -> None:
    data = table(rows([name[:-4] for name in NAMES], LABELS))
    Image.fromarray(PIXELS[0]).save(tmp_path / "im0.jpg")
    with input_error("'im0' may be", "im0.jpg", "im0.png"):
        data.load(tmp_path)


def test_images_of_several_forms_need_size_and_channels(table: Csv, tmp_path: Path) -> None:
    data = table(rows(NAMES, LABELS))
    Image.new("RGB", (9, 7)).save(tmp_path / "im4.png")
    for options, says in (({}, "has 3 channels, {} has 1 channel; set data.channels"), ({"size": 8}, "has 3 channels, {} has 1 channel; set data.channels"),
                          ({"channels": 3}, "is 9x7 pixels, {} is 6x6; set data.size")):
        with input_error(f"{tmp_path / 'im4.png'} " + says.format(tmp_path / "im0.png")):
            data.model_copy(update=options).load(tmp_path)
    assert data.model_copy(update={"size": 8, "channels": 3}).load(tmp_path).train.shape == (3, 8, 8)


def deep(folder: Path, form: str) -> list[str]:
    """Nine files of more than 8 bits: the pixels times 257, or as arrays of two channels."""
    for number, pixels in enumerate(PIXELS):
        if form == "npy":
            np.save(folder / f"deep{number}.npy", np.stack([pixels / 255, 1 - pixels / 255], 2))
        else:
            Image.fromarray(pixels.astype(np.float32) if form == "tiff" else pixels.astype(np.uint16) * 257).save(folder / f"deep{number}.{form}")
    return [f"deep{number}" for number in range(9)]


@pytest.mark.parametrize(("form", "limits", "depth"), [("png", [0, 65535], "uint16"), ("tiff", [0, 255], "float32"), ("npy", [0, 1], "float64")])
def test_files_of_more_than_8_bits_need_a_range(table: Csv, tmp_path: Path, form: str, limits: list[float], depth: str) -> None:
    data = table(rows(deep(tmp_path, form), LABELS), test=0.3)
    with input_error(f"training images are {depth}", "data.range=["):
        data.load(tmp_path)
    train = data.model_copy(update={"range": tuple(limits)}).load(tmp_path).train
    assert train.shape == (2 if form == "npy" else 1, 6, 6)
    assert {image.numpy().tobytes() for image in train.pixels[:, 0]} < {pixels.tobytes() for pixels in PIXELS}  # type: ignore[union-attr]


def test_name_and_digest_are_those_of_the_source(table: Csv) -> None:
    assert table(rows(NAMES, LABELS), "csv:label=diagnosis").name == "csv"


def test_images_of_one_group_stay_on_one_side_of_every_split(table: Csv, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lesions = [f"{label}{number // 6}" for number, label in enumerate(LABELS)]  # two images, and one, of each class
    text = rows(NAMES, LABELS, lesions, header="file,label,lesion_id")
    lesion_of = {pixels.tobytes(): lesion for pixels, lesion in zip(PIXELS, lesions, strict=True)}
    for options in ({"test": 0.4}, {"test": 0.1}):
        train, _, test = table(text, "csv:group=lesion_id", **options).load(tmp_path)
        sides = [{lesion_of[image.numpy().tobytes()] for image in images.pixels} for images in (train, test)]  # type: ignore[union-attr]
        assert not sides[0] & sides[1]
        assert (len(train), len(test)) == (6, 3)
    assert train.fingerprint != replace(train, groups=None).fingerprint  # which teachers are found by
    assert not caplog.messages
    table(rows(NAMES, LABELS, ["train"] * 6 + ["test"] * 3, lesions, header="file,label,split,lesion_id"), "csv:group=lesion_id").load(tmp_path)
    assert not caplog.messages
    table(rows(NAMES, LABELS, ["train"] * 3 + ["test"] * 6, lesions, header="file,label,split,lesion_id"), "csv:group=lesion_id").load(tmp_path)
    assert "3 values of lesion_id in training rows and in others ('ant0')" in caplog.text
