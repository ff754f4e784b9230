"""Real images chosen without any optimization: the baselines every method has to beat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from datastill.core import Method, Step
from datastill.data import Images
from datastill.errors import InputError
from datastill.functional.coresets import herding, k_center, nearest
from datastill.late import nn, no_grad, torch
from datastill.rng import RNG
from datastill.task import Task, filled
from datastill.train import fit

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.synthetic import SyntheticSet

PICKS = {"herding": herding, "nearest": nearest, "k_center": k_center}  # by the features of a class


class Coreset(Method):
    """``ipc`` real images of each class.

    choose: "random": uniformly, without replacement. "herding": so that their mean feature stays close to that of the
        class. "nearest": those whose features are closest to that mean, which is what comparison tables list as herding
        (docs/results/published.md). "k_center": so that every image of the class is near one of them.
    first: with which image k_center begins: "nearest" to the mean of its class, or a "random" one, which the published
        numbers at 10 images per class look like (docs/results/published.md).
    epochs: how long the run's network is trained on the training images to compute features (SGD, learning rate 0.01,
        momentum 0.9, weight decay 5e-4, batches of 256, a tenth of the learning rate after half; the recipe is ours).
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {name: {"choose": name} for name in ("random", *PICKS)}

    choose: Literal["random", "herding", "nearest", "k_center"] = "random"
    first: Literal["nearest", "random"] = "nearest"
    epochs: int = Field(default=20, ge=1, le=10**6)
    iterations: int = Field(default=0, ge=0, le=0)

    def start(self, task: Task, ipc: int, rng: RNG) -> SyntheticSet:
        if self.choose == "random":
            return task.synthetic(task.random_real(ipc, rng("random")), rng=rng("encode"))
        net = self._trained(task, rng)
        rows = [filled(pool[self._pick(_features(net, task, pool), min(ipc, len(pool)), rng("first", c))], ipc)
                for c, pool in enumerate(task.real.of_class)]
        return task.synthetic(task.real.batch(torch.cat(rows)), rng=rng("encode"))

    def _pick(self, features: Tensor, count: int, rng: RNG) -> Tensor:
        if self.choose == "k_center" and self.first == "random":
            return k_center(features, count, int(rng.numpy().integers(len(features))))
        return PICKS[self.choose](features, count)

    def check(self, task: Task, ipc: int) -> None:
        if self.first == "random" and self.choose != "k_center":
            raise InputError(f"method.first=random is for k_center; {self.choose} has no first image to choose")

    def iterate(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> Iterator[Step]:
        yield from ()

    def rehearsal(self, task: Task, ipc: int) -> tuple[Method, Images, float]:
        if self.choose == "random":
            return self, task.real, 1.0
        some = task.part(0, max(1, min(map(len, task.real.of_class)) // max(ipc, 100))).real
        return self.model_copy(update={"epochs": 1}), some, self.epochs * len(task.real) / len(some)

    def _trained(self, task: Task, rng: RNG) -> nn.Module:
        net = task.fresh(rng("network"))
        rates = [0.01 if epoch < (self.epochs + 1) // 2 else 0.001 for epoch in range(self.epochs)]
        fit(net, task.real, rates, rng("train"), batch_size=256, progress=task.progress)
        return net.eval()


@no_grad
def _features(net: nn.Module, task: Task, rows: Tensor) -> Tensor:
    """Features (N, D) of these training images."""
    return torch.cat([task.features(net, task.real.batch(part).x).cpu() for part in rows.split(1024)])
