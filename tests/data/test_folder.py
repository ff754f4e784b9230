"""Images in a folder tree, one folder a class."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datastill.data import Data, Images, _reader
from datastill.data._fit import Fit, square
from datastill.rng import RNG
from kit import Call, input_error

Tree = Callable[..., Data]
CLASSES = ("ant", "bee")


def picture(seed: int = 0, mode: str = "L", width: int = 6, height: int = 6) -> Image.Image:
    """A random image of this mode."""
    rng = np.random.default_rng(seed)
    colors = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return colors.quantize(8) if mode == "P" else colors.convert(mode)


def pictures(count: int, seed: int = 0, **options: Any) -> list[Image.Image]:
    return [picture(100 * seed + number, **options) for number in range(count)]


def both(count: int = 3, under: str = "", **options: Any) -> dict[str, list[Image.Image]]:
    """Two classes of so many pictures."""
    return {f"{under}{name}": pictures(count, seed, **options) for seed, name in enumerate(CLASSES)}


def pixels(images: list[Image.Image]) -> np.ndarray:
    """(N, C, H, W) uint8."""
    arrays = np.stack([np.asarray(image) for image in images])
    return arrays[:, None] if arrays.ndim == 3 else arrays.transpose(0, 3, 1, 2)


# --- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("second", ["test", "val", "valid", "validation"])
def test_train_and_test_folders(tree: Tree, tmp_path: Path, mode: str, second: str) -> None:
    ours, theirs = both(3, "train/", mode=mode), {f"{second}/{name}": pictures(1, 5, mode=mode) for name in CLASSES}
    train, _, test = tree({**ours, **theirs}).load(tmp_path)
    assert train.classes == test.classes == CLASSES
    assert np.array_equal(train.pixels.numpy(), pixels([*ours["train/ant"], *ours["train/bee"]]))
    assert train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(test.pixels.numpy(), pixels(pictures(1, 5, mode=mode) * 2))


@pytest.mark.parametrize("under", ["", "train/"])
def test_without_a_test_folder_a_part_is_kept(tree: Tree, tmp_path: Path, under: str) -> None:
    folders = both(5, under)
    train, _, test = tree(folders).load(tmp_path)
    assert (len(train), len(test)) == (8, 2)
    together = torch.cat([train.pixels, test.pixels]).flatten(1).tolist()
    everything = pixels([image for images in folders.values() for image in images]).reshape(10, -1).tolist()
    assert sorted(together) == sorted(everything)


def test_test_images_are_taken_from_test_where_there_is_val_too(tree: Tree, tmp_path: Path) -> None:
    data = tree({**both(3, "train/"), **both(1, "val/"), **both(2, "test/")})
    assert len(data.load(tmp_path).test) == 4


@pytest.mark.parametrize(("train", "test"), [("Training/{}", "Testing/{}"), ("Train_Set/{}", "TEST/{}"), ("{}/train", "{}/test")])
def test_other_usual_layouts_are_understood(tree: Tree, tmp_path: Path, train: str, test: str) -> None:
    splits = tree({train.format(name): pictures(3, seed) for seed, name in enumerate(CLASSES)}
                  | {test.format(name): pictures(2, 5 + seed) for seed, name in enumerate(CLASSES)}).load(tmp_path)
    assert splits.train.classes == CLASSES
    assert np.array_equal(splits.train.pixels.numpy(), pixels([*pictures(3), *pictures(3, 1)]))
    assert np.array_equal(splits.test.pixels.numpy(), pixels([*pictures(2, 5), *pictures(2, 6)]))


def test_validation_images_of_its_own(tree: Tree, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = {**both(5, "train/"), **{f"val/{name}": pictures(2, 7 + seed) for seed, name in enumerate(CLASSES)},
               **{f"test/{name}": pictures(1, 9 + seed) for seed, name in enumerate(CLASSES)}}
    data = tree(folders)
    splits = data.load(tmp_path)
    assert splits.validation is not None
    assert np.array_equal(splits.validation.pixels.numpy(), pixels([*pictures(2, 7), *pictures(2, 8)]))
    assert splits.validation.targets.tolist() == [0, 0, 1, 1]
    assert (splits.validation.mean, splits.validation.std) == (splits.train.mean, splits.train.std)
    assert (len(splits.train), len(splits.test)) == (10, 2)
    some = data.model_copy(update={"classes": ("bee", "ant")}).load(tmp_path).validation
    assert some is not None
    assert some.targets.tolist() == [1, 1, 0, 0]
    assert not caplog.records
    held = data.model_copy(update={"validation": 0.4}).load(tmp_path)
    assert held.validation is not None
    assert (len(held.train), len(held.validation)) == (6, 4)
    assert caplog.messages == ["folder: its own 4 validation images are left out, since data.validation=0.4 holds out training images"]
    for path in (tmp_path / "tree" / "val").rglob("*.png"):
        path.unlink()
    assert data.load(tmp_path).validation is None


def test_classes_with_equal_folders_on_request(tree: Tree, tmp_path: Path) -> None:
    data = tree({f"{name}/{age}": pictures(3, seed) for seed, name in enumerate(CLASSES) for age in ("young", "old")})
    with input_error("ant, bee", "old, young", "data.source=folder:nested=true"):
        data.load(tmp_path)
    assert Data(source="folder:nested=true", path="tree").load(tmp_path).train.classes == CLASSES


def test_what_is_left_out_is_said_once(tree: Tree, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tree({**both(3, "train/"), **both(1, "test/")})
    place = tmp_path / "tree"
    for name in ("train/ant/a.heic", "train/bee/b.HEIC", "test/bee/c.heic", "train/ant/notes.txt"):
        (place / name).write_bytes(b"x")
    (place / "train" / "ant" / "empty.png").touch()
    (place / "train" / "ant" / "dead.png").symlink_to("nothing.png")
    (place / "train" / "cow").symlink_to("nothing")
    (place / "train" / "ant" / "back").symlink_to("..")
    picture().save(place / "stray.png")
    for name in ("README.txt", "train/labels.json", "test/labels.json"):
        (place / name).write_bytes(b"x")
    picture().save(place / "train" / "stray.png")
    train, _, test = data.load(tmp_path)
    assert (len(train), len(test)) == (6, 2)
    said = [text for text in caplog.messages if "left out" in text]
    assert len(said) == 1
    for part in (str(place), ".heic: 3", ".txt: 2", ".json: 2", "dead links: 2", "empty files: 1", "links in a circle: 1",
                 "images outside the folders of classes: 2", "convert them"):
        assert part in said[0]


def test_names_with_line_breaks_take_one_line(tree: Tree, run_cli: Call, tmp_path: Path) -> None:
    tree({"a\nb": pictures(3), "a-b": pictures(3), "c\r\u2028": pictures(3), "nan": pictures(3)})
    with input_error("no class 'cat'", "known: a\\nb, a-b, c\\n\\n, nan"):
        Data(source="folder", path="tree", classes=("cat", "dog")).load(tmp_path)
    for command in (["distill", "random/own-ipc1", "data.path=tree", "data.classes=cat,dog"], ["distill", "random/own-ipc1", "data.path=a\nb"], ["report", "a\nb"]):
        code, _, err = run_cli(*command, *(["--data-root", str(tmp_path)] if command[0] == "distill" else []))
        assert code == 2
        assert all(line.startswith(("datastill: ", "caution: ")) for line in err.splitlines()), err


def test_a_class_named_like_a_missing_label_is_said(tree: Tree, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree({"nan": pictures(3), "ant": pictures(3)}).load(tmp_path)
    assert "a class is called 'nan', which is how a missing label is written; leave it out with data.classes if it is one" in caplog.text


def test_a_folder_of_other_formats_says_so(tree: Tree, tmp_path: Path) -> None:
    data = tree({"ant": [], "bee": []})
    for name in CLASSES:
        (tmp_path / "tree" / name / "x.heic").write_bytes(b"x")
    with input_error("contains no images", "left out: .heic: 2"):
        data.load(tmp_path)


def test_linked_folders_and_files_are_read(tree: Tree, tmp_path: Path) -> None:
    data = tree({"ant": pictures(3)})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number, image in enumerate(pictures(4, 1)):
        image.save(elsewhere / f"{number}.png")
    (tmp_path / "tree" / "bee").symlink_to(elsewhere)
    (tmp_path / "tree" / "ant" / "x.png").symlink_to(elsewhere / "0.png")
    train, _, test = data.load(tmp_path)
    assert (train.classes, len(train) + len(test)) == (CLASSES, 8)


def test_photographs_are_turned_upright_before_sizes_are_compared(tree: Tree, tmp_path: Path) -> None:
    data = tree({"ant": pictures(2, mode="RGB", width=6, height=9), "bee": pictures(3, mode="RGB", width=6, height=9)})
    exif = Image.Exif()
    exif[0x0112] = 8
    picture(5, "RGB", 9, 6).save(tmp_path / "tree" / "ant" / "x.png", exif=exif)
    train, _, test = data.load(tmp_path)
    together = torch.cat([train.pixels, test.pixels])
    upright = pixels([picture(5, "RGB", 9, 6).rotate(90, expand=True)])[0]
    assert upright.tolist() in together.tolist()


def test_hidden_colors_are_not_seen(tree: Tree, tmp_path: Path) -> None:
    clear = Image.new("RGBA", (6, 6), (200, 0, 0, 0))
    keyed = Image.new("RGB", (6, 6), (9, 9, 9))
    keyed.info["transparency"] = (9, 9, 9)
    train, _, test = tree({name: [clear, keyed] for name in CLASSES}, channels=3).load(tmp_path)
    assert train.pixels.min() == test.pixels.min() == 255


def test_classes_are_in_alphabetical_order_and_may_hold_folders(tree: Tree, tmp_path: Path) -> None:
    data = tree({"zebra": pictures(2, 1), "ape/young": pictures(2, 2), "ape/old": pictures(3, 3),
                 ".git/x": pictures(1)})
    train, _, test = data.load(tmp_path)
    assert train.classes == ("ape", "zebra")
    assert torch.bincount(torch.cat([train.targets, test.targets])).tolist() == [5, 2]


def test_other_files_are_left_alone(tree: Tree, tmp_path: Path) -> None:
    data = tree(both(3))
    (tmp_path / "tree" / "README.md").write_text("mine")
    (tmp_path / "tree" / "ant" / "notes.txt").write_text("mine")
    (tmp_path / "tree" / "ant" / ".hidden.png").write_text("mine")
    train, _, test = data.load(tmp_path)
    assert len(train) + len(test) == 6


def test_file_formats_beside_png(tree: Tree, tmp_path: Path) -> None:
    data = tree(both(3))
    for number, suffix in enumerate(["bmp", "PGM", "tif", "jpg"]):
        image = picture(number)
        image.save(tmp_path / "tree" / "ant" / f"x{number}.{suffix}")
    train, _, test = data.load(tmp_path)
    assert len(train) + len(test) == 10


@pytest.mark.parametrize("place", ["", "train", "train/ant", "test"])
def test_what_a_mac_puts_into_archives_is_left_alone(tree: Tree, tmp_path: Path, place: str) -> None:
    data = tree({**both(3, "train/"), **both(1, "test/")})
    (tmp_path / "tree" / place / "__MACOSX").mkdir()
    (tmp_path / "tree" / place / "__MACOSX" / "._00.png").write_bytes(b"junk")
    train, _, test = data.load(tmp_path)
    assert (train.classes, len(train), len(test)) == (CLASSES, 6, 2)


def test_a_fifo_is_not_opened(tree: Tree, tmp_path: Path) -> None:
    data = tree(both(3))
    os.mkfifo(tmp_path / "tree" / "ant" / "q.png")
    train, _, test = data.load(tmp_path)
    assert len(train) + len(test) == 6


# --- wrong trees ------------------------------------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with input_error(f"no folder {tmp_path / 'tree'}", "data.path"):
        Data(source="folder", path="tree").load(tmp_path)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with input_error(str(tmp_path), "one folder per class"):
        Data(source="folder", path=".").load(tmp_path)


@pytest.mark.parametrize("source", ["folder", "npz", "csv"])
@pytest.mark.parametrize(("path", "problem"), [(None, "missing"), ("", "empty"), (" ", "empty")])
def test_your_own_images_are_nowhere_but_at_their_path(source: str, path: str | None, problem: str, tmp_path: Path) -> None:
    with input_error(f"data.path is {problem}", "give the folder or file of your images"):
        Data(source=source, path=path).load(tmp_path)


@pytest.mark.parametrize(("folders", "parts"), [
    ({"ant": []}, ("tree contains no images (looked for .png, .jpg and others that Pillow opens; left out: nothing)",)),
    ({"ant": [picture()], "bee": []}, ("class 'bee' has no training images",)),
    ({"ant": pictures(3)}, ("1 class", "at least two")),
    ({**both(2, "train/"), "test/ant": [picture()]}, ("different classes: bee", "must be the same")),
    ({**both(2, "train/"), **both(1, "test/"), "test/cow": [picture()]}, ("different classes: cow",)),
    ({**both(2, "train/"), "test/ant": [], "test/bee": []}, ("test contains no images",)),
    ({"ant": [picture()], "bee": pictures(4)}, ("'ant'", "too few")),
    ({**both(2, "train/"), **both(1, "extra/"), **both(1, "more/")}, ("extra, more", "rename", "test/")),
    ({**both(2, "Testing/"), **both(1, "val/")}, ("Testing, val", "no folder of training images")),
    ({**both(3), "ant/old/test": pictures(1)}, ("old/test", "looks like test images among the training images")),
    ({**both(3, "train/"), **both(1, "test/"), "train/ant/val": pictures(1)}, ("ant/val", "looks like validation images")),
    ({"train": pictures(2), **both(2)}, ("ant, bee", "rename")),
])
def test_a_wrong_tree_is_explained(
        tree: Tree, tmp_path: Path, folders: dict[str, list[Image.Image]], parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        tree(folders).load(tmp_path)


@pytest.mark.parametrize("under", ["", "test/"])
def test_a_folder_whose_name_is_not_unicode_is_named(tree: Tree, tmp_path: Path, under: str) -> None:
    data = tree(both(3, "train/" if under else "") | (both(3, "test/") if under else {}))
    odd = os.fsencode(tmp_path / "tree" / under) + b"/\xff\xfe"
    try:
        os.mkdir(odd)  # noqa: PTH102
    except OSError:
        pytest.skip("a file system of Unicode names")
    picture().save(Path(os.fsdecode(odd)) / "0.png")
    with input_error("\\udcff\\udcfe"):
        data.load(tmp_path)


# --- sizes and modes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["ant", "bee", "test/bee"])
def test_an_odd_size_is_named_with_the_remedy(tree: Tree, tmp_path: Path, place: str) -> None:
    data = tree({**both(2, "train/"), **both(2, "test/")})
    odd = tmp_path / "tree" / (place if "/" in place else f"train/{place}") / "x.png"
    picture(width=9, height=7).save(odd)
    with input_error(str(odd), "9x7", "6x6", "set data.size"):
        data.load(tmp_path)


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_mixed_sizes_are_brought_to_the_size_asked_for(tree: Tree, tmp_path: Path, fit: Fit) -> None:
    data = tree({"ant": [picture(1), picture(2, width=9), picture(3, width=20, height=5)], "bee": pictures(3)}, size=6, fit=fit)
    train, _, test = data.load(tmp_path)
    assert train.shape == test.shape == (1, 6, 6)
    resized = [picture(1), square(picture(2, width=9), 6, fit), square(picture(3, width=20, height=5), 6, fit), *pictures(3)]
    together = torch.cat([train.pixels, test.pixels]).flatten(1).tolist()
    assert sorted(together) == sorted(pixels(resized).reshape(6, -1).tolist())


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1", "CMYK"])
@pytest.mark.parametrize("first", [True, False])
def test_an_odd_mode_is_named_with_the_remedy(tree: Tree, tmp_path: Path, mode: str, first: bool) -> None:
    data = tree(both(3))
    odd = tmp_path / "tree" / "ant" / ("00.png" if first else "99.png")
    picture(mode=mode).save(odd, "tiff" if mode == "CMYK" else "png")
    with input_error(f"{odd} has mode {mode}", "set data.channels"):
        data.load(tmp_path)


@pytest.mark.parametrize(("mode", "other"), [("L", "RGB"), ("RGB", "L")])
def test_gray_beside_color_is_named_with_the_remedy(tree: Tree, tmp_path: Path, mode: str, other: str) -> None:
    data = tree({"ant": pictures(3, mode=mode), "bee": [*pictures(2, 1, mode=mode), picture(mode=other)]})
    with input_error(f"{tmp_path / 'tree' / 'bee' / '02.png'} has {'3 channels' if other == 'RGB' else '1 channel'}, ", "set data.channels to 1 or 3"):
        data.load(tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "LA", "1"])
def test_odd_modes_are_converted_where_channels_are_asked_for(
        tree: Tree, tmp_path: Path, mode: str, channels: int) -> None:
    odd = picture(1, mode=mode)
    train = tree({"train/ant": [odd], "train/bee": pictures(1), "test/ant": [odd], "test/bee": pictures(1)},
                 channels=channels).load(tmp_path).train
    wanted = pixels([odd.convert("RGB").convert("L" if channels == 1 else "RGB")])
    assert np.array_equal(train.pixels[:1].numpy(), wanted)


@pytest.mark.parametrize("damage", [lambda b: b[:-30], lambda b: b[:1], lambda b: b"not an image",
                                    lambda b: b[:40] + b"\xff" * 20 + b[60:]])
def test_a_damaged_image_is_named(tree: Tree, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    data = tree(both(3))
    path = tmp_path / "tree" / "bee" / "01.png"
    path.write_bytes(damage(path.read_bytes()))
    with input_error(f"{path} cannot be read as an image"):
        data.load(tmp_path)


# --- larger than memory -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No split fits in memory; the cache folder."""
    monkeypatch.setattr(_reader, "MEMORY_LIMIT", 0)
    monkeypatch.setenv("DATASTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def same(images: Images, others: Images) -> bool:
    everything = torch.arange(len(images))
    return (torch.equal(images.raw(everything), others.raw(everything)) and torch.equal(images.targets, others.targets)
            and (images.classes, images.mean, images.std) == (others.classes, others.mean, others.std)
            and images.fingerprint == others.fingerprint
            and torch.equal(images.sample(3, RNG(0), 1).x, others.sample(3, RNG(0), 1).x)
            and images.batch(everything).x.stride() == others.batch(everything).x.stride()
            == torch.empty(len(images), *images.shape).stride())


@pytest.mark.parametrize("options", [{}, {"validation": 0.4}, {"size": 8, "channels": 3}, {"channels": 1}, {"size": 4, "fit": "squash"}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("test", [{}, both(1, "test/")])
def test_mapped_images_are_the_same_images(
        tree: Tree, tmp_path: Path, options: dict[str, Any], mode: str, test: dict[str, Any],
        request: pytest.FixtureRequest) -> None:
    data = tree({**both(5, "train/", mode=mode), **{name: pictures(1, 3, mode=mode) for name in test}}, **options)
    in_memory = data.load(tmp_path)
    request.getfixturevalue("small_memory")
    mapped = data.load(tmp_path)
    for split, other in zip(in_memory, mapped, strict=True):
        assert split is other is None or same(split, other)


def mapped_file(tensor: torch.Tensor) -> str:
    """The file a tensor's memory is mapped from; empty where it is plain memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(number, 16) for number in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return " ".join(line.split()[5:])
    return ""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux to see memory maps")
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_mapped_images_stay_on_disk(tree: Tree, tmp_path: Path, small_memory: Path, mode: str) -> None:
    train = tree({**both(5, "train/", mode=mode), **both(5, "test/", mode=mode)}).load(tmp_path).train
    assert mapped_file(train.pixels).startswith(str(small_memory))
    assert train.mapped


def cached(folder: Path) -> list[Path]:
    """What is kept: arrays and their checksums, without the locks of those who wrote them."""
    return sorted(path for path in folder.iterdir() if path.suffix != ".lock")


def test_the_cache_is_written_once(tree: Tree, tmp_path: Path, small_memory: Path) -> None:
    data = tree(both(5))
    data.load(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in small_memory.iterdir()}
    data.load(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in small_memory.iterdir()} == before
    assert len([path for path in before if path.suffix == ".npy"]) == 1


@pytest.mark.usefixtures("small_memory")
def test_the_cache_notices_how_images_are_resized(tree: Tree, tmp_path: Path) -> None:
    data = tree(both(5, width=12), size=4)
    squashed = data.model_copy(update={"fit": "squash"})
    assert data.load(tmp_path).train.fingerprint != squashed.load(tmp_path).train.fingerprint


@pytest.mark.usefixtures("small_memory")
def test_the_cache_notices_a_changed_image(tree: Tree, tmp_path: Path) -> None:
    data = tree(both(5))
    before = data.load(tmp_path).train.fingerprint
    path = tmp_path / "tree" / "ant" / "00.png"
    for number in range(5):  # all of a class, so that one at least is a training image
        picture(77 + number).save(path.with_name(f"{number:02d}.png"))
    os.utime(path, ns=(1, 1))
    assert data.load(tmp_path).train.fingerprint != before


def test_a_damaged_image_leaves_no_cache(tree: Tree, tmp_path: Path, small_memory: Path) -> None:
    data = tree(both(3))
    (tmp_path / "tree" / "bee" / "01.png").write_bytes(b"junk")
    for _ in range(2):
        with input_error("01.png cannot be read as an image"):
            data.load(tmp_path)
    assert cached(small_memory) == []


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"junk" * 99, lambda b: b[:-1], lambda b: b"PK\x03\x04",
                                    lambda b: b.replace(b"|u1", b"|i1"), lambda b: b[:20] + b"(" + b[21:]])
def test_a_damaged_cache_is_decoded_anew(
        tree: Tree, tmp_path: Path, small_memory: Path, damage: Callable[[bytes], bytes]) -> None:
    data = tree({**both(3, "train/"), **both(3, "test/")})
    before = data.load(tmp_path).train.fingerprint
    caches = {path: path.read_bytes() for path in cached(small_memory)}
    for path, content in caches.items():
        path.write_bytes(damage(content))
    assert data.load(tmp_path).train.fingerprint == before
    assert {path: path.read_bytes() for path in cached(small_memory)} == caches


def test_a_cache_that_cannot_be_written_is_named(
        tree: Tree, tmp_path: Path, small_memory: Path) -> None:
    small_memory.write_bytes(b"a file")
    with input_error(str(small_memory), "cannot be written", "DATASTILL_CACHE"):
        tree(both(3)).load(tmp_path)


def test_a_part_of_a_mapped_set_is_not_read(tree: Tree, tmp_path: Path, small_memory: Path) -> None:
    splits = tree(both(10), validation=0.3).load(tmp_path)
    assert splits.validation is not None
    assert splits.train.pixels.data_ptr() == splits.validation.pixels.data_ptr() == splits.test.pixels.data_ptr()
    second, first = torch.tensor([1]), torch.tensor([0])
    assert splits.train.subset(second).batch(first).x.equal(splits.train.batch(second).x)


def test_mean_and_std_are_of_the_training_images_only(tree: Tree, tmp_path: Path) -> None:
    splits = tree(both(10)).load(tmp_path)
    mean = splits.train.raw(torch.arange(len(splits.train))).double().mean() / 255
    assert splits.train.mean == splits.test.mean == (round(float(mean), 4),)


def test_a_split_beside_the_folder_is_named(tree: Tree, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree({**both(5, "parts/train/"), **both(2, "parts/test/")})
    whole = tmp_path / "tree" / "parts"
    Data(source="folder", path=str(whole / "train")).load(tmp_path)
    assert f"beside it is test, which is not read; to use both, set data.path to {whole}" in caplog.text


@pytest.mark.parametrize(("name", "said"), [("Thumbs.db", ""), ("desktop.ini", ""), ("notes.doc", ".doc: 1"),
                                            ("IMG_1.HEIC", ".heic: 1; to use pictures in a format that Pillow cannot open")])
def test_what_lies_beside_pictures_is_said_if_it_matters(
        tree: Tree, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, said: str) -> None:
    data = tree(both(5))
    (tmp_path / "tree" / "ant" / name).write_bytes(b"x")
    data.load(tmp_path)
    assert ("left out" in caplog.text) == bool(said)
    assert said in caplog.text
    assert ("convert them" in caplog.text) == ("heic" in said)
