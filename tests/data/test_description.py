"""Data: which set, how large, which part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from datastill.data import Data, Splits
from datastill.data.description import stratified
from datastill.errors import InputError
from datastill.rng import RNG
from kit import input_error, quick

Npz = Callable[..., Data]


def numbered(count: int, classes: int = 3) -> dict[str, np.ndarray]:
    """Training images whose level is their index."""
    return {"x_train": np.arange(count, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2),
            "y_train": np.arange(count) % classes}


TEST = {"x_test": np.full((3, 4, 4), 255, dtype=np.uint8), "y_test": np.arange(3)}


def rows(splits: Splits) -> list[list[int]]:
    """The indices of numbered images in each split."""
    return [[] if images is None else images.pixels[:, 0, 0, 0].tolist() for images in splits]


# --- splits -----------------------------------------------------------------------------------------------------------


@quick
@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.floats(0.01, 0.99), st.integers(0, 9))
def test_a_stratified_split_takes_the_share_of_each_class(targets: list[int], share: float, seed: int) -> None:
    labels = np.array(targets)
    try:
        held, rest = stratified(labels, share, RNG(seed))
    except InputError:
        counts = np.bincount(labels)
        assert any(count and max(1, round(share * count)) >= count for count in counts)
        return
    assert np.array_equal(np.sort(np.concatenate([held, rest])), np.arange(len(labels)))
    assert np.array_equal(held, np.sort(held))
    assert np.array_equal(rest, np.sort(rest))
    for label in set(targets):
        there, kept = (labels == label).sum(), (labels[held] == label).sum()
        assert 1 <= kept < there
        assert kept == 1 or abs(kept - share * there) <= 0.5


def test_a_stratified_split_is_a_function_of_the_stream() -> None:
    labels = np.arange(60) % 3
    assert np.array_equal(stratified(labels, 0.3, RNG(1))[0], stratified(labels, 0.3, RNG(1))[0])
    assert not np.array_equal(stratified(labels, 0.3, RNG(1))[0], stratified(labels, 0.3, RNG(2))[0])


@quick
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), min_size=1, max_size=80), st.floats(0.05, 0.6), st.integers(0, 9))
def test_no_group_is_on_both_sides_of_a_split(images: list[tuple[int, int]], share: float, seed: int) -> None:
    labels, groups = (np.array(column) for column in zip(*images, strict=True))
    try:
        held, rest = stratified(labels, share, RNG(seed), groups=groups)
    except InputError:
        return
    assert np.array_equal(np.sort(np.concatenate([held, rest])), np.arange(len(labels)))
    assert not set(groups[held]) & set(groups[rest])
    assert set(labels[held]) == set(labels[rest]) == set(labels)


def test_groups_of_one_image_are_split_as_if_there_were_none() -> None:
    labels = np.arange(60) % 3
    for one, other in zip(stratified(labels, 0.3, RNG(1)), stratified(labels, 0.3, RNG(1), groups=np.arange(60)[::-1]), strict=True):
        assert np.array_equal(one, other)


def test_a_class_of_one_group_cannot_be_split() -> None:
    with input_error("class 'bee' has 3 images of 1 group, too few to hold some out with share=0.5"):
        stratified(np.array([0, 0, 1, 1, 1]), 0.5, RNG(0), ("ant", "bee"), groups=np.array([0, 1, 2, 2, 2]))


def test_nothing_is_held_of_share_zero() -> None:
    held, rest = stratified(np.array([0, 1, 1]), 0.0, RNG(0))
    assert (held.tolist(), rest.tolist()) == ([], [0, 1, 2])


def test_validation_images_are_training_images_and_test_images_stay(npz: Npz, tmp_path: Path) -> None:
    plain = npz(**numbered(30), **TEST)
    train, validation, test = rows(plain.model_copy(update={"validation": 0.2}).load(tmp_path))
    assert len(validation) == 6
    assert sorted(train + validation) == list(range(30))
    assert sorted(label % 3 for label in validation) == [0, 0, 1, 1, 2, 2]
    assert test == rows(plain.load(tmp_path))[2] == [255, 255, 255]


def test_test_images_kept_apart_do_not_depend_on_validation(npz: Npz, tmp_path: Path) -> None:
    plain = npz(**numbered(60))
    without, some = (rows(plain.model_copy(update={"validation": share}).load(tmp_path)) for share in (0.0, 0.3))
    assert without[2] == some[2]
    assert len(without[2]) == 12
    assert sorted(some[0] + some[1]) == without[0]


def test_splits_are_the_same_each_time(npz: Npz, tmp_path: Path) -> None:
    data = npz({"validation": 0.2}, **numbered(60))
    assert rows(data.load(tmp_path)) == rows(data.load(tmp_path))


@pytest.mark.parametrize("options", [{"test": 0.9999}, {"validation": 0.9999}])
def test_a_class_too_small_to_split_is_named(npz: Npz, tmp_path: Path, options: dict[str, Any]) -> None:
    data = npz(options, **numbered(12), classes=np.array(["ant", "bee", "cow"]))
    (name, share), = options.items()
    with input_error(f"class 'ant' has {4 if name == 'test' else 3} images, too few to hold some out with data.{name}={share}; add images", "lower"):
        data.load(tmp_path)


# --- keep -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["keep.npy", "keep.txt"])
def test_keep_reduces_the_training_images(npz: Npz, tmp_path: Path, name: str) -> None:
    kept = np.array([7, 2, 0, 4])
    (np.save if name.endswith("npy") else np.savetxt)(tmp_path / name, kept, **({} if "npy" in name else {"fmt": "%d"}))
    train, _, test = rows(npz({"keep": name}, **numbered(9), **TEST).load(tmp_path))
    assert train == kept.tolist()
    assert test == [255, 255, 255]


def test_an_empty_file_of_indices_is_refused_in_one_line(npz: Npz, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "keep.txt").write_text("")
    with input_error("keep.txt", "data.keep"):
        npz({"keep": "keep.txt"}, **numbered(9), **TEST).load(tmp_path)
    assert not recwarn.list


def test_keep_counts_after_the_test_images_were_kept_apart(npz: Npz, tmp_path: Path) -> None:
    everything = rows(npz(**numbered(30)).load(tmp_path))[0]
    np.save(tmp_path / "keep.npy", np.arange(6))
    assert rows(npz({"keep": "keep.npy"}, **numbered(30)).load(tmp_path))[0] == everything[:6]


@pytest.mark.parametrize(("indices", "says"), [
    ([], "float64 of shape (0,)"), ([0, 1, 2, 2], "2 twice"), ([0, 1, 9], "0 to 9"), ([-1, 0, 9], "-1 to 9"), ([[0, 1, 2]], "int64 of shape (1, 3)"),
    ([0.5, 1.0, 2.0], "float64 of shape (3,)"), ([True] * 9, "bool of shape (9,)"), ([{}], "it holds Python objects")])
def test_wrong_indices_to_keep_are_refused(npz: Npz, tmp_path: Path, indices: list[Any], says: str) -> None:
    np.save(tmp_path / "keep.npy", np.array(indices))
    with input_error("data.keep", str(tmp_path / "keep.npy"), says):
        npz({"keep": "keep.npy"}, **numbered(9), **TEST).load(tmp_path)


@pytest.mark.parametrize(("name", "content"), [
    ("keep.txt", b"0\none\n"), ("keep.txt", b"0\n1.5\n"), ("keep.npy", b""), ("keep.npy", b"0\n1\n"),
    ("missing.txt", None)])
def test_an_unreadable_file_to_keep_is_named(npz: Npz, tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with input_error("data.keep", str(tmp_path / name)):
        npz({"keep": name}, **numbered(9), **TEST).load(tmp_path)


def test_keep_may_not_lose_a_class(npz: Npz, tmp_path: Path) -> None:
    np.save(tmp_path / "keep.npy", np.array([0, 1, 3]))
    with input_error("data.keep keep.npy", "no training image of class '2'"):
        npz({"keep": "keep.npy"}, **numbered(9), **TEST).load(tmp_path)


def test_images_that_are_not_kept_do_not_count(npz: Npz, tmp_path: Path) -> None:
    np.save(tmp_path / "keep.npy", np.arange(6))
    loaded = []
    for level in (0, 255):
        arrays = numbered(9)
        arrays["x_train"][6:] = level
        loaded.append(npz({"keep": "keep.npy"}, **arrays, **TEST).load(tmp_path))
    first, second = loaded
    assert first.train.fingerprint == second.train.fingerprint
    assert first.train.mean == first.test.mean == second.train.mean == (round(2.5 / 255, 4),)
    assert first.train.std == first.test.std == second.train.std


def test_validation_images_do_not_count_in_the_statistics(npz: Npz, tmp_path: Path) -> None:
    train, validation, test = npz({"validation": 0.4}, **numbered(30), **TEST).load(tmp_path)
    assert validation is not None
    assert train.mean == validation.mean == test.mean == (round(float(train.pixels.double().mean()) / 255, 4),)
    assert train.std == validation.std == test.std


# --- size and channels ------------------------------------------------------------------------------------------------

COLOURS = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(9) % 3


def color_set(npz: Npz, tmp_path: Path, images: np.ndarray = COLOURS, **options: Any) -> torch.Tensor:
    """The training pixels as loaded."""
    data = npz(options, x_train=images, y_train=LABELS, x_test=images, y_test=LABELS)
    train, _, test = data.load(tmp_path)
    assert torch.equal(train.pixels, test.pixels)
    assert train.pixels.dtype == torch.uint8
    return train.pixels


@pytest.mark.parametrize("size", [4, 7, 8, 20])
def test_images_are_resized_as_pil_does(npz: Npz, tmp_path: Path, size: int) -> None:
    got = color_set(npz, tmp_path, size=size).permute(0, 2, 3, 1).numpy()
    wanted = np.stack([Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR) for image in COLOURS])
    assert np.abs(got.astype(int) - wanted).max() <= 1


def test_a_plain_image_stays_plain_in_another_size(npz: Npz, tmp_path: Path) -> None:
    plain = np.full((9, 5, 9, 3), (0, 128, 255), dtype=np.uint8)
    pixels = color_set(npz, tmp_path, plain, size=12)
    assert pixels.shape == (9, 3, 12, 12)
    assert pixels.amin((0, 2, 3)).tolist() == pixels.amax((0, 2, 3)).tolist() == [0, 128, 255]


def test_color_becomes_gray_as_pil_does(npz: Npz, tmp_path: Path) -> None:
    got = color_set(npz, tmp_path, channels=1)[:, 0].numpy()
    wanted = np.stack([Image.fromarray(image).convert("L") for image in COLOURS])
    assert np.abs(got.astype(int) - wanted).max() <= 1


def test_gray_becomes_three_equal_channels(npz: Npz, tmp_path: Path) -> None:
    pixels = color_set(npz, tmp_path, COLOURS[..., :1], channels=3)
    assert pixels.shape == (9, 3, 8, 8)
    for channel in range(3):
        assert np.array_equal(pixels[:, channel].numpy(), COLOURS[..., 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_those_of_the_training_images(npz: Npz, tmp_path: Path, channels: int) -> None:
    train = npz(x_train=COLOURS[..., :channels], y_train=LABELS, x_test=COLOURS[:3, ..., :channels] // 2,
                y_test=LABELS[:3]).load(tmp_path).train
    scaled = COLOURS[..., :channels] / 255
    assert np.allclose(train.mean, scaled.mean((0, 1, 2)), atol=1e-4)
    assert np.allclose(train.std, scaled.std((0, 1, 2)), atol=1e-4)


def test_images_of_one_color_stay_finite(npz: Npz, tmp_path: Path) -> None:
    black = np.zeros((9, 8, 8), dtype=np.uint8)
    train = npz(x_train=black, y_train=LABELS, x_test=black, y_test=LABELS).load(tmp_path).train
    assert torch.isfinite(train.sample(9, RNG(0)).x).all()


def test_splits_of_two_sizes_are_brought_to_the_form_asked_for(npz: Npz, tmp_path: Path) -> None:
    odd = {"x_train": COLOURS, "y_train": LABELS, "x_test": COLOURS[:, :5, :, :1], "y_test": LABELS}
    train, _, test = npz({"size": 6, "channels": 3}, **odd).load(tmp_path)
    assert train.shape == test.shape == (3, 6, 6)
    with input_error("must match"):
        npz({"size": 6}, **odd).load(tmp_path)


def test_two_channels_are_refused(npz: Npz, tmp_path: Path) -> None:
    with pytest.raises((InputError, ValidationError), match="expected 1 or 3"):
        npz({"channels": 2}).load(tmp_path)


# --- where and what ---------------------------------------------------------------------------------------------------


def test_a_path_is_relative_to_the_root_or_absolute(npz: Npz, tmp_path: Path) -> None:
    data = npz()
    absolute = Data(source="npz", path=str(tmp_path / "set.npz"))
    assert data.load(tmp_path).train.fingerprint == absolute.load(tmp_path / "elsewhere").train.fingerprint


def test_a_path_may_start_at_home(npz: Npz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    there = npz().load(tmp_path).train.fingerprint
    assert Data(source="npz", path="~/set.npz").load(tmp_path / "elsewhere").train.fingerprint == there


def test_a_path_of_nobodys_home_is_refused(tmp_path: Path) -> None:
    with input_error("data.path", "~nobody-of-this-name"):
        Data(source="npz", path="~nobody-of-this-name/set.npz").load(tmp_path)


def test_a_path_is_tried_under_the_root_first_and_then_here(
        npz: Npz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = npz()
    here = data.load(tmp_path).train.fingerprint
    monkeypatch.chdir(tmp_path)
    (tmp_path / "root").mkdir()
    assert data.load(tmp_path / "root").train.fingerprint == here
    np.savez(tmp_path / "root" / "set.npz", **numbered(9))
    assert data.load(tmp_path / "root").train.fingerprint != here


@pytest.mark.parametrize("name", ["npz", "folder"])
def test_a_path_that_is_nowhere_is_named_in_both_places(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with input_error(str(tmp_path / "gone"), str(tmp_path / "here" / "gone")):
        Data(source=name, path="gone").load(tmp_path)


def test_an_unknown_set_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with input_error("unknown dataset 'cifar11'", "'cifar10'"):
        Data(source="cifar11").load(tmp_path)


def test_a_source_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stripes_set.py").write_text("""
import numpy as np
from datastill.data import Arrays, Source

class Stripes(Source):
    def read(self, place, size, channels):
        images = np.zeros((10, 4, 4, 1), dtype=np.uint8)
        images[::2, ::2] = 255
        return Arrays((images, np.arange(10) % 2), None, ("across", "none"))
""")
    monkeypatch.syspath_prepend(tmp_path)
    train = Data(source="stripes_set:Stripes").load(tmp_path).train
    assert train.classes == ("across", "none")
    assert len(train) == 8


# --- some of the classes ----------------------------------------------------------------------------------------------


def test_classes_are_kept_in_the_order_given(npz: Npz, tmp_path: Path) -> None:
    data = npz({"classes": ["2", "0"]}, **numbered(30), **TEST)
    splits = data.load(tmp_path)
    assert splits.train.classes == splits.test.classes == ("2", "0")
    levels, targets = rows(splits), splits.train.targets.tolist()
    assert levels[0] == [n for n in range(30) if n % 3 != 1]  # as they lie there
    assert targets == [{2: 0, 0: 1}[n % 3] for n in levels[0]]
    assert splits.test.targets.tolist() == [1, 0]
    assert splits.train.batch(torch.tensor([0])).y.tolist() == [[0.0, 1.0]]
    everything = npz({}, **numbered(30), **TEST).load(tmp_path).train
    assert len({data.load(tmp_path).train.fingerprint, npz({"classes": ["0", "2"]}).load(tmp_path).train.fingerprint, everything.fingerprint}) == 3


def test_splits_and_statistics_are_of_the_classes_kept(npz: Npz, tmp_path: Path) -> None:
    whole = npz({"validation": 0.2, "classes": ["1", "0"]}, **numbered(60), **TEST).load(tmp_path)
    levels = rows(whole)
    assert sorted(levels[0] + levels[1]) == [n for n in range(60) if n % 3 != 2]
    assert [n % 3 for n in levels[1]].count(0) == [n % 3 for n in levels[1]].count(1) == 4
    assert whole.train.mean[0] == pytest.approx(np.mean(levels[0]) / 255, abs=1e-4)
    assert whole.validation is not None
    assert (whole.validation.classes, whole.test.classes) == (("1", "0"), ("1", "0"))


def test_keep_counts_among_the_classes_kept(npz: Npz, tmp_path: Path) -> None:
    np.save(tmp_path / "keep.npy", np.array([0, 1, 4]))
    assert rows(npz({"classes": ["2", "0"], "keep": "keep.npy"}, **numbered(30), **TEST).load(tmp_path))[0] == [0, 2, 6]


@pytest.mark.parametrize(("classes", "parts"), [
    (["0", "3"], ("data.classes: npz has no class '3'", "known: 0, 1, 2")), (["0", "0"], ("at least two different classes", "got 0, 0")),
    (["0", "1", "0"], ("at least two different classes", "got 0, 1, 0")), (["0"], ("at least two different classes", "got 0")), ("1", ("got 1",))])
def test_classes_that_are_not_there_or_not_different_are_refused(npz: Npz, tmp_path: Path, classes: Any, parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        npz({"classes": classes}, **numbered(30), **TEST).load(tmp_path)


@pytest.mark.parametrize("options", [
    {"size": 5}, {"channels": 3}, {"validation": 0.2}, {"test": 0.4}, {"keep": "keep.npy"}, {"classes": ["0", "1"]}])
def test_what_changes_the_training_images_changes_the_fingerprint(
        npz: Npz, tmp_path: Path, options: dict[str, Any]) -> None:
    np.save(tmp_path / "keep.npy", np.arange(9))
    data = npz(options)
    plain = Data(source="npz", path="set.npz")
    assert data.load(tmp_path).train.fingerprint != plain.load(tmp_path).train.fingerprint
    assert data.load(tmp_path).train.fingerprint == data.load(tmp_path).train.fingerprint


def test_loading_writes_nothing(npz: Npz, tmp_path: Path) -> None:
    npz().load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["set.npz"]


@pytest.mark.parametrize("wanted", [[2, 0], "2,0", "2, 0", ["2", "0"], ("cow", "ant"), "cow,ant", "[cow,ant]", "cow, 0"])
def test_classes_are_given_as_names_or_numbers_in_a_list_or_a_text(npz: Npz, tmp_path: Path, wanted: Any) -> None:
    splits = npz({"classes": wanted}, **numbered(12), classes=np.array(["ant", "bee", "cow"])).load(tmp_path)
    assert splits.train.classes == splits.test.classes == ("cow", "ant")
    assert {int(label) for label in splits.train.targets} == {0, 1}
    whole = npz(**numbered(12), classes=np.array(["ant", "bee", "cow"])).load(tmp_path).train
    assert torch.equal(splits.train.pixels[splits.train.targets == 0], whole.pixels[whole.targets == 2])  # type: ignore[index]


def test_a_name_comes_before_a_number(npz: Npz, tmp_path: Path) -> None:
    assert npz({"classes": "1,2"}, **numbered(12), classes=np.array(["2", "1", "0"])).load(tmp_path).train.targets[:3].tolist() == [1, 0, 1]


def test_an_unknown_class_is_told_the_nearest(npz: Npz, tmp_path: Path) -> None:
    for wanted in ("ant,cov", ["ant", "cov"]):
        with input_error("no class 'cov'", "did you mean 'cow'?"):
            npz({"classes": wanted}, **numbered(12), classes=np.array(["ant", "bee", "cow"])).load(tmp_path)
    with input_error("no class '3'"):
        npz({"classes": [0, 3]}, **numbered(12)).load(tmp_path)
    with input_error("classes"):
        npz({"classes": [True, False]})


def test_a_path_for_what_has_none_is_refused(tmp_path: Path) -> None:
    with input_error("data.path is 'nowhere', but digits comes with a library", "leave it out"):
        Data(source="digits", path="nowhere").load(tmp_path)
