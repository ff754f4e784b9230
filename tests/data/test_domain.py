"""Domains: pixels come out of one and go into another, and the way there is differentiable."""

from __future__ import annotations

import pytest
import torch

from datastill.compute import computing
from datastill.data import domain as module
from datastill.data.domain import Domain, bring, domain_of
from datastill.data.whitening import fit
from datastill.rng import RNG
from kit import Counting, input_error, toy_images

GREY = Domain((1, 8, 8), (0.3,), (0.2,), ("a", "b"))
COLOUR = Domain((3, 8, 8), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), ("a", "b"))
SMALL = Domain((3, 4, 4), (0.5,) * 3, (0.5,) * 3, ("c",))


def whitened(domain: Domain) -> Domain:
    whitening = fit([RNG("fit").normal(300, *domain.shape)], "w").to(torch.float32)
    return Domain(domain.shape, domain.mean, domain.std, domain.classes, whitening)


def test_the_same_domain_changes_nothing() -> None:
    x = RNG("x").normal(2, 3, 8, 8)
    assert bring(x, COLOUR, Domain(COLOUR.shape, COLOUR.mean, COLOUR.std, ("other",))) is x


@pytest.mark.parametrize("domain", [GREY, COLOUR, whitened(COLOUR)])
def test_there_and_back(domain: Domain) -> None:
    pixels = RNG("p").uniform(3, *domain.shape)
    torch.testing.assert_close(domain.pixels(domain.normalize(pixels)), pixels, atol=1e-4, rtol=1e-4)


def test_a_real_image_is_the_same_pixels_in_both() -> None:
    images = toy_images(shape=(3, 8, 8))
    other = Domain((3, 8, 8), (0.1, 0.2, 0.3), (1.0, 0.5, 0.25), images.classes)
    x = images.batch(torch.arange(3)).x
    seen = bring(x, domain_of(images), other)
    torch.testing.assert_close(other.pixels(seen), images.raw(torch.arange(3)).float() / 255)


def test_channels() -> None:
    gray = RNG("g").uniform(2, 1, 8, 8)
    color = COLOUR.pixels(bring(GREY.normalize(gray), GREY, COLOUR))
    torch.testing.assert_close(color, gray.expand(-1, 3, -1, -1))
    back = GREY.pixels(bring(COLOUR.normalize(color), COLOUR, GREY))
    torch.testing.assert_close(back, gray)  # the luma of gray is itself


def test_size_keeps_flat_images_flat_and_the_mean() -> None:
    pixels = torch.full((1, 3, 8, 8), 0.25)
    seen = SMALL.pixels(bring(COLOUR.normalize(pixels), COLOUR, SMALL))
    torch.testing.assert_close(seen, torch.full((1, 3, 4, 4), 0.25))
    assert bring(COLOUR.normalize(pixels), COLOUR, whitened(SMALL)).shape == (1, 3, 4, 4)


@pytest.mark.parametrize("there", [GREY, SMALL, whitened(COLOUR), whitened(SMALL)])
def test_gradients_flow(there: Domain) -> None:
    x = RNG("x").normal(1, 3, 8, 8).double().requires_grad_()
    weights = RNG("w").normal(1, *there.shape).double()
    whitening = there.whitening.to(torch.float64) if there.whitening else None
    exact = Domain(there.shape, there.mean, there.std, there.classes, whitening)
    assert torch.autograd.gradcheck(lambda v: (bring(v, COLOUR, exact) * weights).sum(), x)


def test_nothing_is_clamped() -> None:
    x = torch.full((1, 1, 8, 8), 40.0)
    assert float(bring(x, GREY, COLOUR).max()) > 20


@pytest.mark.parametrize("size", [(4, 4), (5, 11), (16, 3)])
def test_the_resize_with_a_deterministic_kernel_is_equal_with_its_gradient(
        size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    there = Domain((3, *size), COLOUR.mean, COLOUR.std, COLOUR.classes)
    x, weights = RNG("x").normal(2, 3, 8, 8).double().requires_grad_(), RNG("w").normal(2, 3, *size).double()

    def found() -> list[torch.Tensor]:
        y = bring(x, COLOUR, there)
        return [y, *torch.autograd.grad((y * weights).sum(), x)]

    usual = found()
    monkeypatch.setattr(module, "needs_deterministic", lambda device: True)
    for a, b in zip(found(), usual, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_where_deterministic_kernels_are_asked_for_no_resize_is_differentiated() -> None:
    x = torch.empty(2, 3, 8, 8, device="meta", requires_grad=True)
    for asked, calls in ((False, 1), (True, 0)):
        with Counting() as counting, computing(x.device, deterministic=asked):
            bring(x, COLOUR, SMALL).sum().backward()
        assert counting.seen["_upsample_bilinear2d_aa_backward"] == calls


def test_channels_without_a_conversion_are_refused() -> None:
    def of(channels: int) -> Domain:
        return Domain((channels, 4, 4), (0.5,) * channels, (0.25,) * channels, ("a", "b"))

    for here, there in ((5, 3), (5, 1), (3, 5), (2, 1)):
        with input_error(f"{here} channels", f"network for {there}"):
            bring(torch.zeros(1, here, 4, 4), of(here), of(there))
    assert bring(torch.zeros(1, 1, 4, 4), of(1), of(5)).shape == (1, 5, 4, 4)
