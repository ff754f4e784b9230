"""Choosing by features: in float64, wherever that is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from datastill.functional import coresets


@pytest.mark.parametrize("choose", [coresets.herding, coresets.k_center])
def test_distances_are_taken_in_float64_where_the_device_has_it(choose: Callable[[Tensor, int], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    monkeypatch.setattr(coresets, "double", lambda features: (asked.append(features.dtype), features.double())[1])
    features = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    assert len(set(choose(features, 3).tolist())) == 3
    assert asked == [torch.float32]
