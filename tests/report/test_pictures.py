"""Images by class: the exact pixels, limits mentioned."""

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datastill.distilled import Distilled
from datastill.report.pictures import pictures, thumbnail


def distilled(classes: int, ipc: int, side: int = 8, channels: int = 3, labels: str = "hard") -> Distilled:
    view = torch.arange(classes * ipc * side * side * channels).reshape(-1, side, side, channels).byte()
    y = torch.eye(classes).repeat_interleave(ipc, 0)
    card: dict[str, Any] = {"classes": [f"c{i}" for i in range(classes)], "mean": [0.5], "std": [0.5], "labels": labels}
    return Distilled({"images": view.permute(0, 3, 1, 2).float(), "labels": y, "view": view}, card)


def pixels(uri: str) -> Tensor:
    content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnail_holds_the_pixels(channels: int) -> None:
    view = distilled(1, 1, channels=channels).view[0]
    assert torch.equal(pixels(thumbnail(view)).reshape(view.shape), view)


def test_every_class_has_its_images() -> None:
    data = distilled(3, 2)
    start = {"view": 255 - data.view, "labels": data.y}
    found = pictures(data, start, [0.5, None, 1.0])
    assert (found.kind, found.note, found.width) == ("both", "", 64)
    assert [row.accuracy for row in found.rows] == ["50.0\u00a0%", "", "100.0\u00a0%"]
    assert torch.equal(pixels(found.rows[2].after[1]), data.view[5])
    assert torch.equal(pixels(found.rows[2].before[1]), start["view"][5])


def test_limits_are_mentioned() -> None:
    found = pictures(distilled(21, 11, side=2), None)
    assert len(found.rows) == 20
    assert len(found.rows[0].after) == 10
    assert found.note == ("Shown: the first 10 of 11 images per class and the first 20 of 21 classes; "
                          "the set itself contains all of them.")


@pytest.mark.parametrize(("side", "shown"), [(28, 56), (32, 64), (64, 64), (96, 96), (224, 128)])
def test_size_on_the_page(side: int, shown: int) -> None:
    assert pictures(distilled(1, 1, side=side), None).width == shown


def test_soft_labels_are_mentioned() -> None:
    assert "class of its largest label" in pictures(distilled(2, 1, labels="soft"), None).note


@pytest.mark.parametrize(("channels", "shown", "said"), [(2, 1, "Images have 2 channels: the first is shown as gray."), (5, 3, "Images have 5 channels: the first three are shown as color.")])
def test_other_numbers_of_channels_are_shown_in_part_and_said(channels: int, shown: int, said: str) -> None:
    found = pictures(distilled(2, 1, channels=channels), None)
    view = distilled(2, 1, channels=channels).view
    assert torch.equal(pixels(found.rows[0].after[0]).view(8, 8, shown), view[0, :, :, :shown])
    assert said in found.note
    assert not pictures(distilled(2, 1), None).note
