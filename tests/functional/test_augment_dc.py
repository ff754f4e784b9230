"""DC's augmentation of students: one operation for each image, what each does, and who may use it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import rotate as turned
from torch import Tensor

from datastill.core import Protocol
from datastill.data import Batch
from datastill.description import load
from datastill.errors import InputError
from datastill.functional.augment_dc import OPERATIONS, augment_dc, crop, noise, rotate, scale
from datastill.methods.distribution import DistributionMatching
from datastill.protocols.dc import DC
from datastill.rng import RNG
from datastill.train import Fixed, augmented
from kit import quick


def images(*shape: int, seed: int = 0) -> Tensor:
    return RNG("images", seed).uniform(*shape)


@quick
@given(st.sampled_from(sorted(OPERATIONS)), st.integers(5, 20), st.integers(5, 20), st.integers(1, 3), st.integers(0, 99))
def test_an_operation_keeps_the_form(operation: str, height: int, width: int, channels: int, seed: int) -> None:
    x = images(4, channels, height, width, seed=seed)
    before = x.clone()
    y = augment_dc(x, RNG(seed), f"dc_{operation}")
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert torch.isfinite(y).all()
    assert torch.equal(x, before)
    assert torch.equal(y, augment_dc(x, RNG(seed), f"dc_{operation}"))


def test_every_image_has_an_operation_of_its_own() -> None:
    x = images(1, 1, 12, 12).expand(200, -1, -1, -1)
    y = augment_dc(x, RNG(0), "dc_crop_noise")
    close = (y - x).abs().amax((1, 2, 3)) < 0.01  # noise alone changes so little; a crop that happens to be centered is rare
    assert 70 < int(close.sum()) < 130
    assert len({tuple(image.flatten().tolist()) for image in y[~close]}) > 30  # of 64 windows


@quick
@given(st.integers(0, 999))
def test_crop_is_a_window_of_the_framed_image(seed: int) -> None:
    image, fill = images(2, 6, 7, seed=seed), torch.tensor([5.0, 7.0])
    framed = torch.stack([torch.nn.functional.pad(channel, [4] * 4, value=float(value))
                          for channel, value in zip(image, fill, strict=True)])
    y = crop(image, fill, np.random.default_rng(seed))
    assert any(torch.equal(y, framed[:, top:top + 6, left:left + 7]) for top in range(8) for left in range(8))


def test_crop_fills_with_the_mean_of_the_batch() -> None:
    x = torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), 2.0)])
    seen = {float(value) for seed in range(20) for value in augment_dc(x, RNG(seed), "dc_crop").unique()}
    assert seen == {0.0, 1.0, 2.0}


def test_scale_shrinks_into_zeros_and_stretches_over_the_border() -> None:
    sums = [float(scale(torch.ones(1, 20, 20), torch.ones(1), np.random.default_rng(seed)).sum()) for seed in range(200)]
    assert min(sums) >= 16 * 16
    assert max(sums) == 20 * 20
    assert min(sums) < 18 * 18
    ramp = torch.arange(20.0).expand(1, 20, 20)
    for seed in range(50):
        assert set(scale(ramp, torch.ones(1), np.random.default_rng(seed)).unique().tolist()) <= set(range(20))  # nearest


def test_rotate_is_by_whole_degrees_below_45() -> None:
    image, fill = images(1, 9, 9), torch.tensor([0.5])
    known = {angle: turned(image.numpy(), angle, axes=(-2, -1), cval=0.5) for angle in range(-45, 45)}
    middle = {angle: a[:, (a.shape[1] - 9) // 2:, (a.shape[2] - 9) // 2:][:, :9, :9] for angle, a in known.items()}
    seen = set()
    for seed in range(300):
        y = rotate(image, fill, np.random.default_rng(seed)).numpy()
        seen |= {angle for angle, want in middle.items() if np.allclose(y, want, atol=1e-6)}
    assert min(seen) < -40
    assert max(seen) > 40


def test_noise_is_small() -> None:
    change = noise(torch.zeros(1, 100, 100), torch.zeros(1), np.random.default_rng(0))
    assert abs(float(change.std()) - 0.001) < 5e-5


def test_students_may_use_it_and_methods_may_not() -> None:
    assert len(DC(augment="dc_crop_scale_rotate").schedule()[0]) == 1001
    for bad in ("dc_", "dc_flip", "dc_crop_", "DC_crop"):
        with pytest.raises(InputError, match="augment"):
            load(Protocol, f"dc:augment={bad}")  # type: ignore[type-abstract]
    with pytest.raises(InputError, match="augment"):
        DistributionMatching(augment="dc_crop")


def test_a_student_sees_another_batch_each_time() -> None:
    examples = augmented(Fixed(Batch(images(3, 1, 8, 8), torch.eye(3))), "dc_crop_scale_rotate")
    rows = torch.arange(3)
    first, again, other = (examples.batch(rows, 0, RNG(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    assert torch.equal(first.y, other.y)
    assert torch.equal(examples.batch(rows).x, examples.examples.batch(rows).x)  # nothing is drawn without a stream
