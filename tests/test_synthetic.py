"""The synthetic set: images, labels and learning rate that are learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import datastill as ds
from datastill.nets.mlp import MLP as Mlp
from datastill.parametrization import Parametrization
from datastill.parametrizations.pixels import Pixels
from datastill.rng import RNG
from datastill.synthetic import SyntheticSet
from kit import toy_images

X, Y = RNG(0).normal(4, 1, 4, 4), torch.eye(3)[[0, 1, 2, 0]]


class Halves(Parametrization):
    """Two parameters whose sum is the image."""

    def encode(self, start: ds.Batch, task: ds.Task, rng: RNG) -> dict[str, Tensor]:
        return {"low": start.x / 4, "high": 3 * start.x / 4}

    def decode(self, parameters: Mapping[str, Tensor], rows: Tensor | None = None) -> Tensor:
        x = parameters["low"] + parameters["high"]
        return x if rows is None else x[rows]


class Twice(Halves):
    """Each stored image and its negative."""

    def decode(self, parameters: Mapping[str, Tensor], rows: Tensor | None = None) -> Tensor:
        x = super().decode(parameters)
        x = torch.stack([x, -x], 1).flatten(0, 1)
        return x if rows is None else x[rows]

    def labels(self, stored: Tensor) -> Tensor:
        return stored.repeat_interleave(2, 0)


def made(parametrization: Parametrization | None = None, **options: Any) -> SyntheticSet:
    task = ds.Task(toy_images(), Mlp(), parametrization or Pixels())
    return task.synthetic(ds.Batch(X, Y), **options)


@pytest.mark.parametrize("parametrization", [Pixels(), Halves()])
def test_it_starts_at_the_images_given(parametrization: Parametrization) -> None:
    synthetic = made(parametrization)
    torch.testing.assert_close(synthetic.decode(), X)
    assert torch.equal(synthetic.y(), Y)
    assert len(synthetic) == 4


def test_it_knows_what_it_stands_for() -> None:
    synthetic, real = made(), toy_images()
    assert (synthetic.classes, synthetic.mean, synthetic.std) == (real.classes, real.mean, real.std)


def test_a_batch_is_the_rows_asked_for() -> None:
    rows = torch.tensor([2, 0])
    everything, some = made().batch(), made().batch(rows)
    assert torch.equal(some.x, everything.x[rows])
    assert torch.equal(some.y, everything.y[rows])
    assert everything.x.shape == X.shape


def test_stored_and_decoded_images_are_counted_apart() -> None:
    synthetic = made(Twice(), soft=True)
    assert (len(synthetic), synthetic.stored, synthetic.ipc) == (8, 4, 1)
    assert torch.equal(synthetic.y(), Y.softmax(1).repeat_interleave(2, 0))
    rows = torch.tensor([5, 0])
    torch.testing.assert_close(synthetic.batch(rows).x, torch.stack([-X[2], X[0]]))
    assert torch.equal(synthetic.batch(rows).y, synthetic.y()[rows])
    assert synthetic.groups()["labels"].shape == (4, 3)


def test_only_the_rows_asked_for_are_decoded() -> None:
    asked: list[Tensor | None] = []

    class Seen(Pixels):
        def decode(self, parameters: Mapping[str, Tensor], rows: Tensor | None = None) -> Tensor:
            asked.append(rows)
            return super().decode(parameters, rows)

    rows = torch.tensor([3])
    made(Seen()).batch(rows)
    assert asked == [rows]


def test_it_shares_no_memory_with_what_it_starts_from() -> None:
    images, labels = X.clone(), Y.clone()
    synthetic = SyntheticSet({"pixels": images}, labels, toy_images(), Pixels(), soft=True, lr=0.1)
    for parameter in synthetic.groups().values():
        parameter.data += 1
    assert torch.equal(images, X)
    assert torch.equal(labels, Y)


def test_it_keeps_no_graph_of_what_it_starts_from() -> None:
    synthetic = SyntheticSet({"pixels": X.clone().requires_grad_() * 2}, Y, toy_images(), Pixels())
    assert not synthetic.decode().requires_grad


def test_soft_labels_are_the_softmax_of_logits() -> None:
    synthetic = made(soft=True)
    torch.testing.assert_close(synthetic.y().sum(1), torch.ones(4))
    torch.testing.assert_close(synthetic.y(), Y.exp() / Y.exp().sum(1, keepdim=True))
    assert torch.equal(synthetic.batch().y, synthetic.y())


@pytest.mark.parametrize(("parametrization", "options", "names"), [
    (Pixels(), {}, ["images.pixels", "labels"]),
    (Halves(), {}, ["images.low", "images.high", "labels"]),
    (Pixels(), {"lr": 0.02, "soft": True}, ["images.pixels", "labels", "inner_lr"]),
    (Pixels(), {"lr": 0.0}, ["images.pixels", "labels", "inner_lr"])])
def test_what_can_be_learned_has_a_name(
        parametrization: Parametrization, options: dict[str, Any], names: list[str]) -> None:
    assert list(made(parametrization, **options).groups()) == names


def test_the_step_size_is_a_parameter() -> None:
    assert made().lr is None
    synthetic = made(lr=0.02)
    assert synthetic.lr is synthetic.groups()["inner_lr"]
    assert synthetic.lr is not None
    assert synthetic.lr.item() == pytest.approx(0.02)


def test_nothing_is_learned_until_asked_for() -> None:
    assert [p for p in made(lr=0.1, soft=True).parameters() if p.requires_grad] == []


@pytest.mark.parametrize("parametrization", [Pixels(), Halves()])
def test_gradients_reach_every_group(parametrization: Parametrization) -> None:
    synthetic = made(parametrization, soft=True)
    groups = synthetic.groups()
    for parameter in groups.values():
        parameter.requires_grad_()
    batch = synthetic.batch(torch.tensor([1]))
    (batch.x.square().sum() + batch.y.square().sum()).backward()
    for parameter in groups.values():
        assert parameter.grad is not None
        assert parameter.grad[1].abs().sum() > 0
        assert parameter.grad[0].abs().sum() == 0


@pytest.mark.parametrize("parametrization", [Pixels(), Halves()])
def test_its_state_can_be_put_back(parametrization: Parametrization) -> None:
    synthetic, other = made(parametrization, lr=0.1), made(parametrization, lr=0.5)
    for parameter in synthetic.parameters():
        parameter.data += 1
    other.load_state_dict(synthetic.state_dict())
    assert torch.equal(other.decode(), synthetic.decode())
    assert torch.equal(other.y(), synthetic.y())
    assert other.lr == synthetic.lr


def test_it_moves_to_another_type_and_device_as_a_whole() -> None:
    synthetic = made(Halves(), lr=0.1).to("meta")
    assert {p.device.type for p in synthetic.groups().values()} == {"meta"}
    assert synthetic.decode().device.type == "meta"
