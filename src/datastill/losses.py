"""The losses and distances of the field, as functions of tensors: usable in any training loop, without a run.

>>> import torch
>>> from datastill import losses
>>> losses.gradient_distance([torch.eye(2)], [torch.eye(2)], "mse")
tensor(0.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from datastill.errors import InputError
from datastill.foreign import said
from datastill.functional import batchnorm, distances, guidance, invariance, labels, smoothness
from datastill.late import torch
from datastill.tables import shown

P = ParamSpec("P")
R = TypeVar("R")


def _named(loss: Callable[P, R]) -> Callable[P, R]:
    """The loss, with torch's errors as an InputError that names the loss and the form of what it was given."""
    @functools.wraps(loss)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return loss(*arguments, **named)
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise InputError(f"losses.{loss.__name__}: {said(error)}; given: "
                             f"{', '.join(map(shown, (*arguments, *named.values())))}; see its help") from error
    return call


attention = _named(distances.attention)
class_means = _named(distances.class_means)
dm = _named(distances.dm)
gradient_distance = _named(distances.gradient_distance)
gradient_norm = _named(distances.gradient_norm)
kl = _named(labels.kl)
mean_feature_distance = _named(distances.mean_feature_distance)
trajectory_distance = _named(distances.trajectory_distance)
cclom = _named(guidance.cclom)
class_distance_share = _named(guidance.class_distance_share)
clom = _named(guidance.clom)
distillation = _named(invariance.distillation)
evidence = _named(invariance.evidence)
map_variance = _named(invariance.map_variance)
mean_of_right = _named(labels.mean_of_right)
statistics_distance = _named(batchnorm.statistics_distance)
total_variation = _named(smoothness.total_variation)

__all__ = ["attention", "cclom", "class_distance_share", "class_means", "clom", "distillation", "dm", "evidence",
           "gradient_distance", "gradient_norm", "kl", "map_variance", "mean_feature_distance", "mean_of_right",
           "statistics_distance", "total_variation", "trajectory_distance"]
