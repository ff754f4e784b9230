"""The dc protocol beyond the golden run: augmentation and the full-data variant."""

import sys

import pytest
import torch

from datastill.core import Protocol
from datastill.data import Batch
from datastill.description import load
from datastill.digest import digest
from datastill.errors import InputError
from datastill.nets.mlp import MLP
from datastill.protocols.dc import DC
from datastill.protocols.tuned import Tuned
from datastill.rng import RNG
from datastill.train import Fixed


def trained(protocol: Protocol, seed: int = 0) -> torch.Tensor:
    examples = Fixed(Batch(RNG(1).normal(12, 1, 8, 8), torch.eye(3).repeat(4, 1)))
    with RNG(2).as_global():
        net = MLP(width=8).build((1, 8, 8), 3)
    protocol.train(net, examples, RNG(seed))
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_augmentation_is_used_and_drawn_from_the_stream() -> None:
    plain, augmented = (trained(DC(epochs=3, augment=a)) for a in ("none", "dsa"))
    assert not torch.equal(plain, augmented)
    assert torch.equal(augmented, trained(DC(epochs=3)))
    assert not torch.equal(augmented, trained(DC(epochs=3), seed=1))


def test_last_weights_are_those_after_all_epochs() -> None:
    assert not torch.equal(trained(DC(epochs=3, augment="none")), trained(DC(epochs=4, augment="none")))


def test_full_data_has_its_own_number_of_epochs() -> None:
    assert len(DC(full_epochs=7).for_full_data().schedule()[0]) == 8


def test_unknown_strategy_is_refused_when_read() -> None:
    with pytest.raises(InputError, match=r"augment: unknown augmentation 'blur'"):
        load(Protocol, {"kind": "dc", "augment": "blur"})


class Halves(DC):
    """Half the loss, which for SGD is half the rate."""

    def criterion(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return super().criterion(logits, y) / 2


def test_the_criterion_of_a_protocol_is_what_students_learn_by() -> None:
    plain = {"epochs": 3, "augment": "none", "weight_decay": 0.0}
    assert torch.allclose(trained(Halves(lr=0.02, **plain)), trained(DC(lr=0.01, **plain)), atol=1e-6)
    assert not torch.allclose(trained(Halves(lr=0.01, **plain)), trained(DC(lr=0.01, **plain)), atol=1e-4)
@pytest.mark.parametrize("protocol", [DC(epochs=2, augment="none"), Tuned(epochs=2).for_network(MLP())])
def test_its_precision_and_layout_are_those_of_the_training(protocol: Protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = protocol.model_copy(update={"precision": "bfloat16"})
    assert not torch.equal(trained(protocol), trained(changed))
    asked = []
    module = sys.modules[type(protocol).train.__module__]
    monkeypatch.setattr(module, "fit", lambda *given, **how: asked.append((how["precision"], how["channels_last"])))
    trained(changed.model_copy(update={"channels_last": True}))
    assert asked == [("bfloat16", True)]


def test_scores_of_protocols_that_do_not_ask_for_another_precision_are_found_again() -> None:
    assert digest(DC(precision="float32", channels_last=False)) == digest(DC())
    assert len({digest(DC()), digest(DC(precision="tf32")), digest(DC(channels_last=True))}) == 3
