"""Published scores: the forms of a file, and what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datastill.analysis.public import read_public
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
                        ("other.npz", 'no array "scores"', "values"), ("short.npy", "5 scores", "6 training images", "data.validation=0"),
                        ("nan.npy", "image 2 is not a finite number"), ("pickled.npy", "cannot be read as scores"),
                        ("words.txt", "cannot be read as scores"), ("columns.csv", "expected a column score"),
                        ("ragged.csv", "line 2: expected 2 columns"), ("empty.csv", "is empty"), ("noise.npz", "cannot be read"),
                        ("counts.pkl", "pickles are not opened"), ("missing.npy", "no file"),
                        ("few.npz", "6 scores and 3 labels"), ("scalar.npz", "6 scores and 1 label"), ("complex.npy", "complex"),
                        ("rows.npy", "expected a list of numbers"), ("same.npy", "all scores are 1"), ("cut.npz", "cannot be read")):
        with input_error(name, *says):
            read_public(tmp_path / name, images)
