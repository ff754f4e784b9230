"""Pixels: the images are the parameters."""

from __future__ import annotations

import torch

import datastill as ds
from datastill.description import load
from datastill.digest import spec
from datastill.parametrization import Parametrization
from datastill.parametrizations.pixels import Pixels
from datastill.rng import RNG
from kit import toy_images

X = 100 * RNG(0).normal(2, 3, 4, 5)


TASK = ds.Task(toy_images(shape=(3, 4, 5)), load(ds.Architecture, "mlp"))  # type: ignore[type-abstract]
PARAMETERS = Pixels().encode(ds.Batch(X, torch.eye(3)[:2]), TASK, RNG(0))


def test_encoding_and_decoding_changes_nothing() -> None:
    assert torch.equal(Pixels().decode(PARAMETERS), X)
    assert torch.equal(Pixels().decode(PARAMETERS, torch.tensor([1])), X[1:])
    assert Pixels().labels(X) is X


def test_values_are_not_clamped() -> None:
    decoded = Pixels().decode({"pixels": X})
    assert (decoded.min(), decoded.max()) == (X.min(), X.max())


def test_every_pixel_is_a_parameter_with_its_own_gradient() -> None:
    parameters = {name: value.clone().requires_grad_() for name, value in PARAMETERS.items()}
    assert sum(value.numel() for value in parameters.values()) == X.numel()
    weights = RNG(1).normal(*X.shape)
    (gradient,) = torch.autograd.grad((weights * Pixels().decode(parameters)).sum(), list(parameters.values()))
    assert torch.equal(gradient, weights)


def test_it_is_found_by_name() -> None:
    assert load(Parametrization, "pixels") == Pixels()  # type: ignore[type-abstract]
    assert spec(Pixels()) == "pixels"
