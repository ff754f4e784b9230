"""Images: drawn by class without replacement, normalized, fingerprinted."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from datastill.data import Images, Lazy
from datastill.data import images as module
from datastill.data.images import at_hand, denormalize, measured
from datastill.functional.crops import crop, draw_boxes
from datastill.rng import RNG
from kit import changed_pixel, input_error, quick, toy_images


def numbered(targets: list[int], classes: int) -> Images:
    """Images of one pixel whose level is their index."""
    pixels = torch.arange(len(targets)).byte().view(-1, 1, 1, 1)
    return Images(pixels, torch.tensor(targets), tuple(map(str, range(classes))), (0.5,), (0.25,))


def drawn(x: Tensor) -> list[int]:
    """The indices of numbered images in a batch."""
    return (denormalize(x, (0.5,), (0.25,)) * 255).round().int().flatten().tolist()


targets_of_3 = st.lists(st.integers(0, 2), min_size=1, max_size=40)


@quick
@given(targets_of_3)
def test_of_class_lists_each_index_once_in_order(targets: list[int]) -> None:
    rows = numbered(targets, 3).of_class
    assert sorted(torch.cat(rows).tolist()) == list(range(len(targets)))
    for label, indices in enumerate(rows):
        assert indices.tolist() == [i for i, target in enumerate(targets) if target == label]


@quick
@given(targets_of_3, st.integers(0, 50), st.none() | st.integers(0, 2), st.integers(0, 9))
def test_sample_draws_different_images_of_the_class_asked_for(
        targets: list[int], n: int, of_class: int | None, seed: int) -> None:
    images = numbered(targets, 3)
    pool = {i for i, target in enumerate(targets) if of_class in (None, target)}
    batch = images.sample(n, RNG(seed), of_class)
    rows = drawn(batch.x)
    assert len(rows) == len(set(rows)) == min(n, len(pool))
    assert set(rows) <= pool
    assert batch.y.argmax(1).tolist() == [targets[i] for i in rows]


def test_what_is_drawn_is_what_is_sampled() -> None:
    images = toy_images(per_class=9)
    for label in (None, 1):
        rows = images.draw(6, RNG(1), label)
        assert torch.equal(images.batch(rows).x, images.sample(6, RNG(1), label).x)


def test_labels_are_one_hot_rows_of_float() -> None:
    batch = toy_images().sample(5, RNG(0))
    assert batch.y.shape == (5, 3)
    assert batch.x.dtype == batch.y.dtype == torch.float32
    assert batch.y.sum(1).tolist() == [1.0] * 5
    assert batch.y.max(1).values.tolist() == [1.0] * 5


def test_sample_is_a_function_of_the_stream() -> None:
    images = toy_images(per_class=9)
    first = images.sample(6, RNG(1)).x
    assert torch.equal(images.sample(6, RNG(1)).x, first)
    assert not torch.equal(images.sample(6, RNG(2)).x, first)


def test_every_image_is_drawn_equally_often() -> None:
    images = numbered([0, 1] * 5, 2)
    counts = torch.zeros(10)
    for seed in range(300):
        counts[drawn(images.sample(2, RNG(seed)).x)] += 1
    assert (counts - 60).abs().max() < 30  # 4.3 standard errors


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_normalized_per_channel(channels: int) -> None:
    images = toy_images(shape=(channels, 4, 5))
    rows = torch.tensor([7, 0, 7])
    x = images.batch(rows).x
    for channel in range(channels):
        wanted = (images.pixels[rows, channel].double() / 255 - images.mean[channel]) / images.std[channel]
        torch.testing.assert_close(x[:, channel].double(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_denormalize_undoes_normalize(channels: int) -> None:
    images = toy_images(shape=(channels, 4, 5))
    x = images.normalize(images.pixels)
    torch.testing.assert_close(denormalize(x, images.mean, images.std), images.pixels / 255)
    assert denormalize(x * 100, images.mean, images.std).min() >= 0
    assert denormalize(x * 100, images.mean, images.std).max() <= 1


def layouts(channels: int) -> dict[str, Images]:
    """The same images in several layouts in memory, and lazy."""
    images = toy_images(shape=(channels, 4, 5))
    last = images.pixels.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return {"plain": images, "channels last": replace(images, pixels=last),
            "mapped": replace(images, pixels=last, mapped=True).subset(torch.arange(len(images))),
            "lazy": lazy(replace(images, pixels=last))[0],
            "batch last": replace(images, pixels=images.pixels.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2))}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_batches_lie_in_memory_as_a_new_tensor_does(channels: int, count: int) -> None:
    rows = torch.arange(count)
    wanted = toy_images(shape=(channels, 4, 5)).batch(rows).x
    for name, images in layouts(channels).items():
        x = images.batch(rows).x
        assert x.stride() == images.raw(rows).stride() == torch.empty(x.shape).stride(), name
        assert torch.equal(x, wanted), name


def test_a_subset_keeps_order_and_everything_else() -> None:
    images = toy_images()
    part = images.subset(torch.tensor([5, 2, 8]))
    assert len(part) == 3
    assert torch.equal(part.pixels, images.pixels[[5, 2, 8]])
    assert torch.equal(part.targets, images.targets[[5, 2, 8]])
    assert (part.classes, part.mean, part.std) == (images.classes, images.mean, images.std)


def test_a_subset_knows_its_own_classes() -> None:
    images = toy_images()
    assert len(images.of_class[0]) == 4
    assert [len(rows) for rows in images.subset(torch.tensor([0, 1])).of_class] == [1, 1, 0]


def test_length_and_shape() -> None:
    images = toy_images(shape=(3, 4, 5))
    assert len(images) == 12
    assert images.shape == (3, 4, 5)


def test_the_device_is_where_batches_are() -> None:
    images = toy_images().to(torch.device("meta"))
    assert images.sample(2, RNG(0)).x.device.type == "meta"
    assert images.device == torch.device("meta")


def variants() -> dict[str, Images]:
    images = toy_images()
    targets = images.targets.clone()
    targets[-1] = 0
    return {"another pixel": replace(images, pixels=changed_pixel(images)),
            "another target": replace(images, targets=targets),
            "another class name": replace(images, classes=("a", "b", "x")),
            "other order of classes": replace(images, classes=("b", "a", "c")),
            "one image less": images.subset(torch.arange(len(images) - 1)),
            "another order": images.subset(torch.arange(len(images)).flip(0)),
            "another mean": replace(images, mean=(0.25,)),
            "another std": replace(images, std=(0.75,)),
            "another shape": replace(images, pixels=images.pixels.view(-1, 1, 2, 8))}


@pytest.mark.parametrize("what", variants())
def test_the_fingerprint_changes_with(what: str) -> None:
    assert variants()[what].fingerprint != toy_images().fingerprint


def test_the_fingerprint_is_of_the_content() -> None:
    images = toy_images()
    transposed = images.pixels.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # another layout in memory
    assert replace(images, pixels=transposed).fingerprint == images.fingerprint
    assert toy_images().fingerprint == images.fingerprint
    assert len(images.fingerprint) == 12


# --- lazy pixels ------------------------------------------------------------------------------------------------------


class Counted(Lazy):
    """The pixels of other images; says which were read."""

    def __init__(self, pixels: Tensor, name: str = "mine") -> None:
        self.pixels, self.name = pixels, name
        self.shape = tuple(pixels.shape)
        self.read: list[int] = []

    def __getitem__(self, indices: Tensor) -> Tensor:
        self.read += indices.tolist()
        return self.pixels[indices]

    def identity(self, indices: Tensor) -> bytes:
        return f"{self.name}{indices.tolist()}".encode()


def lazy(images: Images, name: str = "mine") -> tuple[Images, Counted]:
    pixels = Counted(images.pixels, name)
    return replace(images, pixels=pixels), pixels


@pytest.mark.parametrize("rows", [None, [5, 2, 8, 0, 1]])
def test_lazy_images_are_drawn_as_those_in_memory(rows: list[int] | None) -> None:
    images = toy_images(shape=(3, 4, 5))
    same, _ = lazy(images)
    if rows is not None:
        images, same = images.subset(torch.tensor(rows)), same.subset(torch.tensor(rows))
    assert (len(same), same.shape) == (len(images), images.shape)
    for label in (None, 0):
        ours, theirs = (part.sample(3, RNG(4), label) for part in (same, images))
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.y, theirs.y)


def test_lazy_images_are_read_when_drawn_and_only_then() -> None:
    images, pixels = lazy(toy_images())
    part = images.subset(torch.tensor([9, 4, 7])).subset(torch.tensor([2, 0])).to(torch.device("cpu"))
    assert len(part.of_class[1]) == 1
    assert len(part.fingerprint) == 12
    assert pixels.read == []
    part.batch(torch.tensor([1]))
    assert pixels.read == [9]


def test_the_fingerprint_of_lazy_images_is_of_their_identity() -> None:
    images, _ = lazy(toy_images())
    others = [lazy(toy_images(), "yours")[0], images.subset(torch.tensor([0, 1])), images.subset(torch.tensor([1, 0])),
              replace(images, classes=("b", "a", "c"))]
    assert lazy(toy_images(seed=1))[0].fingerprint == images.fingerprint
    assert len({images.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_a_moved_copy_has_the_fingerprint_of_the_content_and_others_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    images, taken = toy_images(), []
    original = Images._hashed
    monkeypatch.setattr(Images, "_hashed", lambda self: taken.append(self) or original(self))
    moved = images.to(torch.device("cpu"))
    assert images.fingerprint == moved.fingerprint == moved.to(torch.device("meta")).fingerprint  # which has nothing to hash
    assert len(taken) == 1
    others = [images.subset(torch.arange(3)), replace(images, mean=(0.1,)), replace(moved, std=(0.1,)),
              replace(images, pixels=changed_pixel(images))]
    assert len({images.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_a_batch_goes_to_a_gpu_by_way_of_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[torch.dtype, torch.device]] = []
    monkeypatch.setattr(module, "send", lambda tensor, device: (sent.append((tensor.dtype, device)), tensor)[1])
    gpu = torch.device("cuda")
    replace(toy_images(), device=gpu).batch(torch.arange(3))
    assert (torch.uint8, gpu) in sent
    assert (torch.int64, gpu) in sent


def test_images_that_are_alive_are_found_by_their_content() -> None:
    """Until the last of them is gone."""
    first, second = toy_images(seed=77), toy_images(seed=77)
    assert at_hand(first.fingerprint) is first
    assert at_hand(second.fingerprint) is second
    del second
    gc.collect()
    assert at_hand(fingerprint := first.fingerprint) is first
    assert at_hand("0" * 12) is None
    del first
    gc.collect()
    assert at_hand(fingerprint) is None


@pytest.mark.parametrize(("changes", "parts"), [
    ({"pixels": torch.zeros(12, 1, 4, 4)}, ("float32", "uint8")), ({"pixels": torch.zeros(12, 4, 4).byte()}, ("(12, 4, 4)",)), ({"pixels": torch.zeros(12, 1, 4, 4).byte().numpy()}, ("ndarray",)),
    ({"targets": torch.zeros(12)}, ("float32", "int64")), ({"targets": [0] * 12}, ("got [0, 0, ",)), ({"targets": torch.arange(11) % 3}, ("12 images but 11 targets",)),
    ({"targets": torch.arange(12) % 4}, ("0 to 3", "expected 0 to 2")), ({"targets": torch.arange(12) % 3 - 1}, ("-1 to 1",)),
    ({"classes": "abc"}, ("names in order", "'abc'")), ({"classes": ("a",)}, ("1 class",)), ({"classes": ("a", "b", "a")}, ("'a' occurs twice",)), ({"classes": (1, 2, 3)}, ("(1, 2, 3)",)), ({"classes": None}, ("None",)),
    ({"mean": (0.5, 0.5)}, ("each channel (1)",)), ({"mean": (float("nan"),)}, ("finite",)), ({"mean": (120.0,), "std": (60.0,)}, ("from 0 to 1",)), ({"std": (0.0,)}, ("positive std",)), ({"std": (-1.0,)}, ("positive std",)),
    ({"std": ()}, ("mean",)), ({"mean": "a"}, ("mean",)), ({"mean": None}, ("mean",)),
])
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        replace(toy_images(), **changes)


def test_lists_become_tuples() -> None:
    images = toy_images()
    same = Images(images.pixels, images.targets, list(images.classes), list(images.mean), torch.tensor(images.std).double())  # type: ignore[arg-type]
    assert (same.classes, same.mean) == (images.classes, images.mean)


@pytest.mark.parametrize("area", [(0.999, 1.0), (0.1, 0.3)])
def test_crops_of_images_in_memory_are_boxes_of_them(area: tuple[float, float]) -> None:
    images = measured(Images(torch.randint(0, 256, (6, 3, 12, 12), dtype=torch.uint8), torch.arange(6) % 2, ("a", "b"), (), ()))
    rows = torch.tensor([4, 0, 0])
    found = images.crops(rows, RNG("crop"), area)
    wanted = crop(images.batch(rows).x, draw_boxes(RNG("crop"), 3, (12, 12), area))
    assert torch.equal(found, wanted)
    assert found.shape == (3, 3, 12, 12)
    assert area[0] > 0.9 or not torch.equal(found[1], found[2])
    assert images.originals(rows, lambda number, image: image) is None
