"""CutMix and Mixup: shares of areas, labels, distributions."""

from __future__ import annotations

import pytest
import torch

from datastill.functional.mixing import draw_cutmix, draw_mixup, mixed, mixed_labels
from datastill.rng import RNG

X, Y = RNG("mixing").normal(5, 2, 8, 6), torch.eye(5)


@pytest.mark.parametrize("seed", range(8))
def test_the_share_of_cutmix_is_that_of_the_pixels_that_stay(seed: int) -> None:
    mix = draw_cutmix(RNG(seed), 5, (8, 6))
    found = mixed(torch.arange(5.0)[:, None, None, None].expand(5, 1, 8, 6), mix)
    for number, image in enumerate(found):
        other = int(mix.order[number])
        stays = float((image == number).double().mean())
        assert stays == pytest.approx(1.0 if other == number else mix.share)
        assert set(image.unique().tolist()) <= {float(number), float(other)}


def test_boxes_cover_half_of_the_image_on_average() -> None:
    """1 - share is uniform for beta = 1, less what lies outside the image."""
    shares = [1 - draw_cutmix(RNG("area", number), 2, (32, 32)).share for number in range(3000)]
    assert 0.26 < sum(shares) / len(shares) < 0.34
    assert min(shares) == 0 < max(shares) <= 1


def test_mixup_mixes_pixels_and_labels_alike() -> None:
    mix = draw_mixup(RNG(3), 5)
    assert torch.allclose(mixed(X, mix), mix.share * X + (1 - mix.share) * X[mix.order])
    labels = mixed_labels(Y, mix)
    assert torch.allclose(labels.sum(1), torch.ones(5))
    assert torch.allclose(labels.diagonal(), mix.share + (1 - mix.share) * (mix.order == torch.arange(5)))
