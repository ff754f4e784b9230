"""Published scores: the forms of a file, and what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datastill.analysis.public import read_public
from datastill.errors import InputError
from kit import input_error, toy_images


def test_the_forms_of_a_file_of_scores(tmp_path: Path) -> None:
    images, values = toy_images(3, 2), [0.5, 1.0, 2.0, 3.0, 4.0, 5e-1]
    (tmp_path / "a.txt").write_text("\n".join(map(str, values)))
    (tmp_path / "b.csv").write_text("label,score\n" + "\n".join(f"{'abc'[i % 3]},{value}" for i, value in enumerate(values)))
    (tmp_path / "c.csv").write_text("Score,Label\n" + "\n".join(f"{value},{i % 3}" for i, value in enumerate(values)))
    np.savez(tmp_path / "d.npz", scores=values, labels=[0, 1, 2] * 2)
    np.save(tmp_path / "e.npy", values)
    for name, labels in (("a.txt", False), ("b.csv", True), ("c.csv", True), ("d.npz", True), ("e.npy", False)):
        found = read_public(tmp_path / name, images)
        assert (found.scores.tolist(), found.has_labels) == (values, labels), name


def test_what_is_no_file_of_scores(tmp_path: Path) -> None:
    images = toy_images(3, 2)
    np.savez(tmp_path / "order.npz", scores=np.arange(6.0), labels=[0, 1, 2, 0, 2, 1])
    np.savez(tmp_path / "other.npz", values=np.arange(6.0))
    np.save(tmp_path / "short.npy", np.arange(5.0))
    np.save(tmp_path / "nan.npy", np.array([0, 1, np.nan, 3, 4, 5]))
    np.save(tmp_path / "pickled.npy", np.array([{}] * 6), allow_pickle=True)
    (tmp_path / "words.txt").write_text("a\nb\n")
    (tmp_path / "columns.csv").write_text("name,value\na,1\n")
    (tmp_path / "ragged.csv").write_text("label,score\na\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "noise.npz").write_bytes(b"\x00\xff" * 40)
    np.savez(tmp_path / "few.npz", scores=np.arange(6.0), labels=[0, 1, 2])
    np.savez(tmp_path / "scalar.npz", scores=np.arange(6.0), labels=0)
    np.save(tmp_path / "complex.npy", np.arange(6.0) * 1j)
    np.save(tmp_path / "rows.npy", np.zeros(6, dtype=[("score", float)]))
    np.save(tmp_path / "same.npy", np.ones(6))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04garbage")
    (tmp_path / "counts.pkl").write_bytes(b"\x80")
    for name, *says in (("order.npz", "in another order", "image 4 is 2 there, 'b' (1) here", "2 of 6 differ"),
                        ("other.npz", 'expected one array "scores"', "values"), ("short.npy", "5 scores", "6 training images", "data.validation=0"),
                        ("nan.npy", "image 2 is not a finite number"), ("pickled.npy", "cannot be read as scores"),
                        ("words.txt", "cannot be read as scores"), ("columns.csv", "expected a column score"),
                        ("ragged.csv", "line 2: expected 2 columns"), ("empty.csv", "is empty"), ("noise.npz", "cannot be read"),
                        ("counts.pkl", "pickles are not opened"), ("missing.npy", "no file"),
                        ("few.npz", "6 scores and 3 labels"), ("scalar.npz", "6 scores and 1 label"), ("complex.npy", "complex"),
                        ("rows.npy", "expected a list of numbers"), ("same.npy", "all scores are 1"), ("cut.npz", "cannot be read")):
        with input_error(name, *says):
            read_public(tmp_path / name, images)


def test_labels_of_every_kind_are_read(tmp_path: Path) -> None:
    images, values = toy_images(3, 2), [0.5, 1.0, 2.0, 3.0, 4.0, 5e-1]
    for name, labels in (("floats", [0.0, 1.0, 2.0] * 2), ("bytes", [b"a", b"b", b"c"] * 2), ("text", ["0", "1", "2"] * 2)):
        np.savez(tmp_path / f"{name}.npz", scores=values, labels=labels)
        assert read_public(tmp_path / f"{name}.npz", images).has_labels
    lines = ["score,label", *(f"{value},{i % 3}.0" for i, value in enumerate(values))]
    (tmp_path / "floats.csv").write_text("\n\n".join(lines))
    assert read_public(tmp_path / "floats.csv", images).scores.tolist() == values


@pytest.mark.parametrize("label", ["\u00b2", "\u2460", "--5", "5" * 5000, "nan", "1e400", "-1", "7", "1.5", ""])
def test_labels_that_are_no_classes_are_another_order(tmp_path: Path, label: str) -> None:
    (tmp_path / "a.csv").write_text("score,label\n" + "\n".join(f"{i}.5,{label if i == 4 else i % 3}" for i in range(6)))
    with input_error("a.csv is in another order than the data: image 4", "1 of 6 differ"):
        read_public(tmp_path / "a.csv", toy_images(3, 2))


def test_damage_of_every_kind_is_named(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "whole.npz", scores=np.arange(6.0), labels=[0, 1, 2] * 2)
    content = (tmp_path / "whole.npz").read_bytes()
    images, refused = toy_images(3, 2), 0
    for place in range(0, len(content), 3):
        (tmp_path / "flipped.npz").write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1:])
        try:
            found = read_public(tmp_path / "flipped.npz", images).scores.tolist()
        except InputError:
            refused += 1
        else:
            assert found == [0, 1, 2, 3, 4, 5]
    assert refused > 20
    np.save(tmp_path / "plain.npy", np.arange(6.0))
    header = (tmp_path / "plain.npy").read_bytes()
    for before, after in ((b"(6,), ", b"(6,{, "), (b"'shape': (6,), }", b"'shape': (9**99,)"), (b"(6,), }        ", b"(600000000000,)")):
        assert before in header
        (tmp_path / "header.npy").write_bytes(header.replace(before, after))
        with input_error("header.npy cannot be read as scores"):
            read_public(tmp_path / "header.npy", images)


def test_forms_that_mean_two_things_are_refused(tmp_path: Path) -> None:
    images = toy_images(3, 2)
    np.save(tmp_path / "table.npy", np.arange(6.0).reshape(2, 3))
    np.savez(tmp_path / "labels.npz", scores=np.arange(6.0), labels=np.zeros((2, 3)))
    np.save(tmp_path / "single.npy", np.arange(6.0))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    (tmp_path / "more.txt").write_text("0.1\n0.2\n0.5,7\n")
    (tmp_path / "twice.csv").write_text("score,score\n1,2\n")
    (tmp_path / "folder").mkdir()
    for name, *says in (("table.npy", "shape (2, 3)"), ("labels.npz", "labels have shape (2, 3)"), ("single.npz", "rename it to .npy"),
                        ("more.txt", "line 3: expected 1 column"), ("twice.csv", "several columns score"), ("folder", "is a folder"),
                        ("x" * 300, "name too long")):
        with input_error(*says):
            read_public(tmp_path / name, images)
