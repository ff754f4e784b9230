"""Selection orders against the golden values, and against the definition written out."""

import pytest
import torch

from datastill.functional.coresets import herding, k_center
from reference.golden import Golden

GOLDEN = Golden("coresets")
PICK = {"herding": herding, "kcenter": k_center}


@pytest.mark.parametrize("name", PICK)
def test_order_of_each_class(name: str) -> None:
    features, label = GOLDEN["in.features"], GOLDEN["in.label"]
    for c, want in enumerate(GOLDEN[f"out.{name}"]):
        rows = torch.nonzero(label == c).squeeze(1)
        assert torch.equal(rows[PICK[name](features[rows], GOLDEN.config["ipc"])], want)


@pytest.mark.parametrize("name", PICK)
def test_ties_go_to_the_lowest_index(name: str) -> None:
    want = GOLDEN[f"out.ties.{name}"]
    assert torch.equal(PICK[name](GOLDEN["in.ties.features"], len(want)), want)


@pytest.mark.parametrize("pick", PICK.values())
def test_all_can_be_chosen_once_even_when_equal(pick: object) -> None:
    assert sorted(pick(torch.ones(5, 2), 5).tolist()) == list(range(5))


def test_herding_is_greedy() -> None:
    features = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).double()
    chosen: list[int] = []
    for _ in range(5):
        free = [i for i in range(12) if i not in chosen]
        chosen.append(min(free, key=lambda i: float((features.mean(0) - features[[*chosen, i]].mean(0)).norm())))
    assert herding(features, 5).tolist() == chosen
