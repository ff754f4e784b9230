"""IDC's students: when the learning rate falls, and how batches are mixed."""

from __future__ import annotations

import pytest
import torch

import datastill as ds
import tiny
from datastill.core import Protocol
from datastill.description import load
from datastill.functional.augment import split_strategy
from datastill.protocols.idc import IDC
from datastill.rng import RNG
from datastill.train import CutMixed, Fixed
from kit import input_error


def test_the_learning_rate_falls_to_a_fifth_twice() -> None:
    rates = IDC(epochs=9).rates
    assert rates == pytest.approx([0.01] * 6 + [0.002] + [0.0004] * 2)
    assert len(IDC().rates) == 1000
    assert len(IDC().for_full_data().rates) == 60


def test_nothing_is_cut_out_of_images_that_are_mixed() -> None:
    assert IDC().augment.startswith("idc_")
    assert split_strategy(IDC().augment) == ["color", "crop", "flip", "scale", "rotate"]
    with input_error("augment", "unknown augmentation 'wrap'"):
        load(Protocol, "idc:augment=idc_wrap")  # type: ignore[type-abstract]


def test_a_student_learns() -> None:
    real = tiny.splits()
    protocol = load(Protocol, "idc:epochs=20,lr=0.05,augment=idc_color_crop")  # type: ignore[type-abstract]
    (one,) = ds.evaluate(real.train.subset(torch.arange(400)), protocol, real.test, network=tiny.NETWORK, trials=1)
    assert one.accuracy > 0.5


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_as_many_batches_are_mixed_as_said(probability: float) -> None:
    x, y = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 8, 8), torch.eye(6)
    examples = CutMixed(Fixed(ds.Batch(x, y)), probability)
    rows, hit = torch.arange(6), 0
    for seed in range(200):
        batch = examples.batch(rows, 0, RNG(seed))
        for image, label, alone in zip(batch.x, batch.y, y, strict=True):  # labels are shares of pixels
            assert torch.allclose(torch.bincount(image.flatten().long(), minlength=6) / 64, label)
            assert label.sum() == pytest.approx(1)
            assert bool((label == alone).all()) or label.max() < 1 or probability > 0
        hit += not torch.equal(batch.x, x)
    assert hit == 0 if not probability else abs(hit / 200 - probability) < 0.12
    assert torch.equal(examples.batch(rows).x, x)
