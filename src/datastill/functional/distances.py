"""Distances between real and synthetic data, minimized by the matching methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from datastill.errors import InputError
from datastill.late import torch
from datastill.tables import shown

if TYPE_CHECKING:
    from torch import Tensor

GradientMetric = Literal["layerwise", "mse", "cosine", "l1", "l1_mean"]
Layers = Literal["all", "convolutions"]
EPSILON = 1e-6  # added to the product of norms: a row of zeros has distance 1 and no gradient


def class_means(features: Tensor, y: Tensor) -> Tensor:
    """Mean feature of each class, (K, D), from features (B, D) and label probabilities (B, K).

    With soft labels, a sample is weighted in each class by its probability. A class without samples gives NaN. Raises
    InputError for labels of another form.

    >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    tensor([[2.],
            [5.]])
    """
    check_probabilities(y, len(features))
    return (y.T @ features) / y.sum(0)[:, None]


def check_images(x: Tensor, what: str) -> None:
    """Check that x are images (B, C, H, W) in floating point. Raises InputError that begins with ``what``."""
    if not isinstance(x, torch.Tensor) or x.dim() != 4 or not len(x) or not x.is_floating_point():
        raise InputError(f"{what}: expected images (B, C, H, W) in floating point, got {shown(x)}")


def check_probabilities(y: Tensor, count: int) -> None:
    """Check that labels are probabilities (``count``, K). Raises InputError."""
    if y.dim() != 2 or len(y) != count or not y.is_floating_point():
        raise InputError(f"labels: expected probabilities ({count}, K), got {shown(y)}; class "
                         "numbers become such with torch.nn.functional.one_hot(y, K).float()")


def mean_feature_distance(real: Tensor, synthetic: Tensor) -> Tensor:
    """Sum over classes of the squared distance between class means, both (K, D); scalar.

    Zhao & Bilen 2023 (Dataset Condensation with Distribution Matching), eq. 4 as their code computes it.

    >>> mean_feature_distance(torch.zeros(2, 3), torch.ones(2, 3))
    tensor(6.)
    """
    return (real - synthetic).square().sum()


def dm(features: Tensor, y: Tensor, real: Tensor, real_y: Tensor) -> Tensor:
    """Distribution matching (Zhao & Bilen 2023): ``mean_feature_distance`` of the class means; non-negative scalar.

    features (N, D) of synthetic images with labels y (N, K); real (B, D), real_y (B, K); all probabilities. A class that
    either of them lacks does not count.

    >>> dm(torch.zeros(2, 3), torch.eye(2), torch.ones(2, 3), torch.eye(2))
    tensor(6.)
    """
    check_probabilities(y, len(features))
    check_probabilities(real_y, len(real))
    both = (y.sum(0) > 0) & (real_y.sum(0) > 0)
    return mean_feature_distance(class_means(real, real_y[:, both]), class_means(features, y[:, both]))


def attention(maps: Tensor) -> Tensor:
    """Where a feature map (B, C, H, W) is active: sum of absolute values over channels, flattened, at unit norm, (B, H W).

    For a fully connected stage (B, D), the absolute values themselves (ours). Sajedi et al. 2023, eq. 2 with p = 1.

    >>> attention(torch.ones(1, 3, 2, 2))
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    if maps.dim() not in (2, 4):
        raise InputError(f"attention: expected a feature map (B, C, H, W) or (B, D), got shape {tuple(maps.shape)}")
    active = maps.abs().sum(1).flatten(1) if maps.dim() == 4 else maps.abs()
    return torch.nn.functional.normalize(active, dim=1)


def gradient_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor], metric: GradientMetric = "layerwise",
                      layers: Layers = "all") -> Tensor:
    """Distance between two lists of gradients of the same network, scalar, differentiable in both.

    "layerwise": sum over layers and output rows of 1 - cosine; vectors (biases, norm weights) are ignored
    (Zhao et al. 2021, eq. 8-9). "mse": sum of squared differences. "cosine": 1 - cosine of everything as one vector. "l1":
    sum of absolute differences; "l1_mean": of their means over each output row, of which a vector has one for each number
    (both Kim et al. 2022, IDC). layers:
    "convolutions" takes only tensors of four dimensions, as IDC does. Raises InputError for another metric, for lists that
    do not match, and if nothing is left.

    >>> gradient_distance([torch.eye(2)], [torch.eye(2).flip(0)])
    tensor(2.)
    """
    if metric not in get_args(GradientMetric):
        raise InputError(f"metric: expected one of {', '.join(get_args(GradientMetric))}, got {metric!r}")
    if [a.shape for a in synthetic] != [b.shape for b in real] or not synthetic:
        raise InputError(f"gradient_distance: expected two lists of gradients of the same network, got "
                         f"{[tuple(a.shape) for a in synthetic]} and {[tuple(b.shape) for b in real]}")
    if layers == "convolutions":
        synthetic, real = ([one for one in part if one.dim() == 4] for part in (synthetic, real))
        if not synthetic:
            raise InputError("gradient_distance: the network has no convolutions; use layers=all")
    if metric in ("l1", "l1_mean"):
        absolute = [(a - b).abs() for a, b in zip(synthetic, real, strict=True)]
        return torch.stack([one.sum() if metric == "l1" else one.reshape(one.shape[:1].numel(), -1).mean(1).sum()
                            for one in absolute]).sum()
    if metric == "mse":
        return torch.stack([(a - b).square().sum() for a, b in zip(synthetic, real, strict=True)]).sum()
    if metric == "cosine":
        return _row_distance(*(torch.cat([t.flatten() for t in part])[None] for part in (synthetic, real))).sum()
    rows = [_row_distance(a.flatten(1), b.flatten(1)).sum() for a, b in zip(synthetic, real, strict=True) if a.dim() > 1]
    if not rows:
        raise InputError("gradient_distance: metric layerwise ignores vectors, and there are only vectors; use mse")
    return torch.stack(rows).sum()


def _row_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of each row, (R, D) and (R, D) -> (R,)."""
    return 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + EPSILON)


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of a list of gradients as one vector, scalar; differentiable at 0 too.

    >>> gradient_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
    tensor(5.)
    """
    if not gradients:
        raise InputError("gradient_norm: expected a list of gradients, got none")
    return (torch.stack([g.square().sum() for g in gradients]).sum() + 1e-12).sqrt()


def trajectory_distance(last: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """Squared distance of weights (P,) to an expert's, relative to how far the expert moved; scalar, 1 if nothing moved.

    |last - target|^2 / |start - target|^2 (Cazenavette et al. 2022, eq. 2). Raises InputError if start and target are equal.

    >>> trajectory_distance(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([2.0]))
    tensor(0.2500)
    """
    if not bool((way := (start - target).square().sum()) > 0):
        raise InputError("trajectory_distance: start and target are equal, so there is no distance to compare with")
    return (last - target).square().sum() / way
