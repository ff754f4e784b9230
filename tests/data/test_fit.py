"""The one resize rule: for pictures and arrays, from every source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from datastill.data import Data
from datastill.data._fit import square
from datastill.digest import digest
from kit import input_error

SHAPES = [(400, 100), (30, 41), (41, 30), (16, 16), (33, 33), (7, 20)]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def turned(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_is_resize_and_center_crop_of_torchvision(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    wanted = v2.CenterCrop(16)(v2.Resize(16)(image))
    assert np.array_equal(np.asarray(square(image, 16, "crop")), np.asarray(wanted))
    assert (square(turned(image), 16, "crop").int() - turned(wanted).int()).abs().max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_squash_resizes_both_sides(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    wanted = image.resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(np.asarray(square(image, 16, "squash")), np.asarray(wanted))
    assert (square(turned(image), 16, "squash").int() - turned(wanted).int()).abs().max() <= 1


def test_square_images_are_the_same_either_way_and_as_ever() -> None:
    images = torch.cat([turned(picture(33, 33, seed)) for seed in range(3)])
    before = torch.nn.functional.interpolate(images.float(), size=(16, 16), mode="bilinear", antialias=True)
    for fit in ("crop", "squash"):
        assert torch.equal(square(images, 16, fit), before.round().clamp(0, 255).byte())
        assert np.array_equal(np.asarray(square(picture(33, 33), 16, fit)),
                              np.asarray(picture(33, 33).resize((16, 16), Image.Resampling.BILINEAR)))


@pytest.fixture
def wide(tmp_path: Path) -> Callable[[str], Data]:
    """Two classes of three pictures of 40x20 for each source, green but for a blue square in the middle."""
    colors = np.zeros((20, 40, 3), dtype=np.uint8)
    colors[..., 1], colors[:, 10:30, 1], colors[:, 10:30, 2] = 255, 0, 255

    def write(source: str) -> Data:
        for split in ("train", "val"):
            for name in ("ant", "bee"):
                (tmp_path / "imagenet" / split / name).mkdir(parents=True)
                for number in range(3):
                    Image.fromarray(colors).save(tmp_path / "imagenet" / split / name / f"{number}.png")
        np.savez(tmp_path / "set.npz", x_train=np.stack([colors] * 6), y_train=np.arange(6) % 2)
        return Data(source=source, path={"npz": "set.npz"}.get(source, "imagenet"), size=8)

    return write


@pytest.mark.parametrize("source", ["folder", "imagenet", "npz"])
def test_every_source_crops_and_squashes_on_request(
        wide: Callable[[str], Data], tmp_path: Path, source: str) -> None:
    data, shown = wide(source), {}
    prints = set()
    for fit in ("crop", "squash"):
        train = data.model_copy(update={"fit": fit}).load(tmp_path).train
        shown[fit] = train.raw(torch.tensor([0]))[0]
        prints.add(train.fingerprint)
    blue = torch.tensor([0, 0, 255], dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8)
    assert (shown["crop"].int() - blue.int())[:, :, 1:7].abs().max() == 0
    assert shown["squash"][1, :, 0].min() == shown["squash"][1, :, 7].min() == 255
    assert shown["squash"][2, :, 3:5].min() == 255
    assert len(prints) == 2


@pytest.mark.parametrize("source", ["folder", "npz"])
def test_an_image_too_long_to_be_cropped_is_refused(
        tree: Callable[..., Data], npz: Callable[..., Data], tmp_path: Path, source: str) -> None:
    images = np.zeros((4, 4, 30000), dtype=np.uint8)
    options: Any = {"size": 256}
    data = npz(options, x_train=images, y_train=np.arange(4) % 2) if source == "npz" else \
        tree({name: [Image.fromarray(images[0])] * 2 for name in ("ant", "bee")}, **options)
    with input_error("30000x4 pixels", "set data.fit to squash"):
        data.load(tmp_path)
    assert data.model_copy(update={"fit": "squash", "test": 0.5}).load(tmp_path).train.shape[1:] == (256, 256)


def test_it_counts_in_the_digest_only_on_request() -> None:
    assert digest(Data(source="mnist", fit="crop")) == digest(Data(source="mnist")) != digest(Data(source="mnist", fit="squash"))
