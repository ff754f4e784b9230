"""How different the teachers of a pool are: how often they predict differently, and how similar their features are."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from datastill.compute import double
from datastill.data import Images
from datastill.errors import InputError
from datastill.late import no_grad, torch
from datastill.rng import RNG
from datastill.teachers import Teachers

if TYPE_CHECKING:
    from torch import Tensor


class Diversity(NamedTuple):
    """Of a pool, on some images: names of its teachers, their accuracies (M,) as fractions (NaN if they know other
    classes), and for every pair of them the share of images they predict differently and the linear CKA of their features,
    both (M, M)."""

    names: list[str]
    accuracy: Tensor
    disagreement: Tensor
    cka: Tensor

    def mean(self, values: Tensor) -> float:
        """Mean over pairs of different teachers; NaN for a single one."""
        pairs = [values[a, b] for a, b in combinations(range(len(self.names)), 2)]
        return float(torch.stack(pairs).mean()) if pairs else float("nan")


@no_grad
def diversity(teachers: Teachers, images: Images, count: int = 1000) -> Diversity:
    """Compare all teachers of a pool on ``count`` random images. Raises InputError if there are none."""
    if not len(images):
        raise InputError("there are no images to compare teachers on")
    rows = RNG("diversity").permutation(len(images))[:count]
    batch, predictions, features, accuracy, names = images.batch(rows), [], [], [], []
    for teacher in teachers:
        parts = batch.x.split(teacher.chunk(batch.x))
        logits = torch.cat([teacher.logits(part) for part in parts])
        predictions.append(logits.argmax(1))
        features.append(torch.cat([teacher.embed(part) for part in parts]))
        same = teacher.domain.classes == images.classes
        accuracy.append(double(logits.argmax(1) == batch.y.argmax(1)).mean().cpu() if same else torch.tensor(float("nan")))
        names.append(teacher.name)
    differ = torch.stack([torch.stack([double(a != b).mean() for b in predictions]) for a in predictions])
    alike = torch.stack([torch.stack([linear_cka(a, b) for b in features]) for a in features])
    return Diversity(names, torch.stack(accuracy), differ.cpu(), alike.cpu())


def linear_cka(a: Tensor, b: Tensor) -> Tensor:
    """Linear centered kernel alignment of two sets of features of the same images, (N, D) and (N, E); scalar in [0, 1].

    |B'A|^2 / (|A'A| |B'B|) of centered features (Kornblith et al. 2019, eq. 3, linear kernel). 0 where one is constant.
    """
    a, b = (v - v.mean(0) for v in map(double, (a, b)))
    if len(a) < max(a.shape[1], b.shape[1]):  # the same from N x N matrices
        a, b = a @ a.T, b @ b.T
        top, scale = (a * b).sum(), a.norm() * b.norm()
    else:
        top, scale = (b.T @ a).square().sum(), (a.T @ a).norm() * (b.T @ b).norm()
    return top / scale if scale > 0 else torch.zeros_like(top)
