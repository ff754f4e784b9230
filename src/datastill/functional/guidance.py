"""Losses of synthetic images under frozen pre-trained models (Lu et al. 2023: CLoM, CCLoM)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datastill.errors import InputError
from datastill.functional.chunks import of_features, sum_over
from datastill.functional.distances import check_images, check_probabilities
from datastill.late import F, torch
from datastill.tables import shown

if TYPE_CHECKING:
    from torch import Tensor


def clom(teacher: Any, x: Tensor, y: Tensor) -> Tensor:
    """Classification loss of a pre-trained model (Lu et al. 2023, CLoM): mean cross-entropy, a scalar in nats.

    teacher: a ``Teacher``, whose logits of the run's classes count, or any module that returns logits (B, K); frozen, in
    evaluation mode. x: images (B, C, H, W) normalized as in the teacher's run; y: class indices (B,) or probabilities
    (B, K). Differentiable once in x; a ``Teacher`` gets the images in chunks, so that memory does not grow with B.

    >>> clom(torch.nn.Flatten(), torch.zeros(2, 1, 1, 3), torch.tensor([0, 2]))
    tensor(1.0986)
    """
    logits = getattr(teacher, "class_logits", None) or getattr(teacher, "logits", teacher)
    if not callable(logits):
        raise InputError(f"clom: expected one teacher, as in teachers[0], or a module, got {shown(teacher)}")
    check_images(x, "clom")
    if y.dim() == 2:
        check_probabilities(y, len(x))
    elif y.dim() != 1 or len(y) != len(x) or y.is_floating_point():
        raise InputError(f"clom: expected class numbers ({len(x)},) or probabilities ({len(x)}, K), got {shown(y)}")
    return sum_over(lambda part, rows: F.cross_entropy(logits(part), y[rows], reduction="sum") / len(x),
                    x, _chunk(teacher, x))


def cclom(teacher: Any, x: Tensor, y: Tensor, real: Tensor, real_y: Tensor) -> Tensor:
    """Contrastive loss of a pre-trained model (Lu et al. 2023, CCLoM): ``class_distance_share`` of its features, a scalar in
    [0, 1], 1/K at chance level. The classes need not be the teacher's.

    teacher: a ``Teacher`` or a ``Network`` (anything with ``embed``), frozen. x (N, C, H, W) with y (N, K) probabilities:
    synthetic images; real (B, C, H, W) with real_y (B, K): real ones, without gradient. Differentiable once in x.

    >>> from types import SimpleNamespace
    >>> flat = SimpleNamespace(embed=torch.nn.Flatten())
    >>> x, y = torch.eye(2).view(2, 1, 1, 2), torch.eye(2)
    >>> cclom(flat, x, y, x, y)
    tensor(0.)
    """
    check_probabilities(y, len(x))
    check_probabilities(real_y, len(real))
    if not hasattr(teacher, "embed"):
        raise InputError(f"cclom: expected one teacher, as in teachers[0], or a network with embed, got {shown(teacher)}")
    for images in (x, real):
        check_images(images, "cclom")
    with torch.no_grad():
        directions = F.normalize(teacher.embed(real), dim=1)
    sums, counts = real_y.T @ directions, real_y.sum(0)
    return of_features(teacher.embed, lambda found: share_of_sums(found, y, sums, counts), x, _chunk(teacher, x))


def _chunk(teacher: Any, x: Tensor) -> int:
    return teacher.chunk(x) if hasattr(teacher, "chunk") and not isinstance(teacher, torch.nn.Module) else len(x)


def class_distance_share(features: Tensor, y: Tensor, real: Tensor, real_y: Tensor) -> Tensor:
    """Share of the total cosine distance that is between images of the same class; scalar in [0, 1], 1/K at chance level.

    sum(M * D) / sum(D) with D = 1 - cosine of every synthetic and real feature and M = y real_y' (Lu et al. 2023, CCLoM).
    features (N, D) of synthetic images with labels y (N, K); real (B, D), real_y (B, K).

    >>> class_distance_share(torch.eye(2), torch.eye(2), torch.eye(2), torch.eye(2))
    tensor(0.)
    """
    check_probabilities(y, len(features))
    check_probabilities(real_y, len(real))
    directions = F.normalize(real, dim=1)
    return share_of_sums(features, y, real_y.T @ directions, real_y.sum(0))


def share_of_sums(features: Tensor, y: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """The same from class sums of the real images: ``sums`` (K, D) of their directions, and ``counts`` (K,).

    A distance is linear in the direction of the real feature, so the N x B distances need not be computed.
    """
    directions = F.normalize(features, dim=1)
    same = (y * (counts - directions @ sums.T)).sum()
    return same / (counts.sum() - directions @ sums.sum(0)).sum()


def class_sums(directions: Tensor, targets: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Sums of the directions (B, D) by class, (K, D), and the number of images in each class, (K,)."""
    sums = torch.zeros(classes, directions.shape[1], dtype=directions.dtype, device=directions.device)
    return sums.index_add_(0, targets, directions), torch.bincount(targets, minlength=classes).to(directions.dtype)
