"""The losses and distances of the field, as functions of tensors: usable in any training loop, without a run.

>>> import torch
>>> from datastill import losses
>>> losses.gradient_distance([torch.eye(2)], [torch.eye(2)], "mse")
tensor(0.)
"""

from datastill.functional.distances import (
    attention,
    class_means,
    dm,
    gradient_distance,
    gradient_norm,
    mean_feature_distance,
    trajectory_distance,
)
from datastill.functional.guidance import cclom, class_distance_share, clom
from datastill.functional.labels import mean_of_right
from datastill.functional.smoothness import total_variation

__all__ = ["attention", "cclom", "class_distance_share", "class_means", "clom", "dm", "gradient_distance", "gradient_norm",
           "mean_feature_distance", "mean_of_right", "total_variation", "trajectory_distance"]
