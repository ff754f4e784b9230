"""The vision transformer: tokens, heads, patches that tile the image."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datastill.description import load
from datastill.errors import InputError
from datastill.nets import Architecture
from datastill.nets.vit import ViT
from kit import input_error, quick

Shape = tuple[int, int, int]


def small(**options: Any) -> ViT:
    return ViT(**{"width": 8, "depth": 2, **options})


@pytest.mark.parametrize(("shape", "grid"), [((3, 32, 32), (8, 8)), ((1, 28, 28), (7, 7)), ((3, 8, 20), (2, 5)),
                                             ((3, 64, 64), (8, 8)), ((3, 4, 4), (1, 1)), ((3, 96, 224), (6, 14))])
@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_the_patch_follows_the_image_size(shape: Shape, grid: tuple[int, int], pooling: str) -> None:
    net, x = small(pooling=pooling).build(shape, 3), torch.randn(2, *shape)
    maps = net.maps(x)
    assert list(maps) == ["block1", "block2"]
    assert all(value.shape == (2, 8, *grid) for value in maps.values())
    assert net.embed(x).shape == (2, 8)


def test_a_map_shows_where_the_patches_are() -> None:
    """Without blocks between, a cell of the grid depends on its own patch only."""
    net, x = small(pooling="mean").build((3, 8, 16), 3), torch.randn(1, 3, 8, 16)
    tokens = net.features.tokens(x)
    grid = tokens.transpose(1, 2).unflatten(2, (2, 4))
    moved = x.clone()
    moved[:, :, 4:8, 8:12] += 1
    changed = (net.features.tokens(moved).transpose(1, 2).unflatten(2, (2, 4)) != grid).any(1)[0]
    assert changed.nonzero().tolist() == [[1, 2]]


def test_features_are_the_class_token_or_the_mean_of_all_tokens() -> None:
    x = torch.randn(2, 3, 16, 16)
    for pooling in ("class", "mean"):
        net = small(pooling=pooling).build((3, 16, 16), 3)
        tokens = net.features[:-1](x)
        assert tokens.shape[1] == 16 + (pooling == "class")
        torch.testing.assert_close(net.embed(x), tokens[:, 0] if pooling == "class" else tokens.mean(1))


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (64, 1), (20, 1), (200, 2), (384, 6)])
def test_heads_follow_the_width(width: int, heads: int) -> None:
    with torch.device("meta"):
        assert small(width=width).build((3, 8, 8), 2).features.block1.self_attn.num_heads == heads


def test_the_count_of_parameters_has_a_closed_form() -> None:
    width, depth = 12, 3
    block = 12 * width**2 + 13 * width
    tokens = 3 * 16 * width + width + width + 65 * width
    with torch.device("meta"):
        net = small(width=width, depth=depth).build((3, 32, 32), 10)
    assert sum(p.numel() for p in net.parameters()) == tokens + depth * block + 2 * width + 10 * width + 10


def test_evaluation_gives_what_training_gives() -> None:
    """Torch takes a faster way where no gradient is asked for."""
    net, x = small(width=16, heads=4).build((3, 16, 16), 3), torch.randn(4, 3, 16, 16)
    expected = net(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), expected)


@quick
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_it_fits_or_the_advice_does(height: int, width: int, patch: int) -> None:
    shape = (1, height, width)
    try:
        net = small(width=2, depth=1, patch=patch).build(shape, 2)
    except InputError as error:
        advised = [int(p) for p in re.findall(r"\d+", str(error).partition("use patch=")[2])]
        assert advised
        for each in advised:
            small(width=2, depth=1, patch=each).build(shape, 2)
    else:
        assert net(torch.randn(1, *shape)).isfinite().all()


def test_what_does_not_fit_is_explained() -> None:
    with input_error("network vit does not fit images of 32x20 pixels", "8 pixels", "use patch=1 or 2 or 4"):
        small(patch=8).build((3, 32, 20), 10)


def test_heads_that_do_not_divide_the_width_are_refused_when_read() -> None:
    with input_error("heads must divide width=192", "heads=5"):
        load(Architecture, "vit:heads=5")  # type: ignore[type-abstract]
