"""DataDAM: match the mean attention maps, layer by layer, of real and synthetic images in fresh random networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from datastill.core import Group, Method, Optim, Step
from datastill.digest import spec
from datastill.errors import InputError
from datastill.functional.augment import STRATEGY, Strategy, augment_classes
from datastill.functional.distances import attention, class_means, mean_feature_distance
from datastill.late import nn, torch
from datastill.nets import Architecture
from datastill.rng import RNG
from datastill.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.synthetic import SyntheticSet

SCALE = 100.0  # of all terms, as in the authors' code


class AttentionMatching(Method):
    """Attention matching: DataDAM (Sajedi et al. 2023, ICCV: "DataDAM: Efficient Dataset Distillation with Attention
    Matching").

    Each iteration draws one random network. For every feature map but the last, the attention (sum of magnitudes over
    channels, a vector of length 1 for each image) is averaged over each class; the squared distances of these means
    between ``batch_real`` real images and all synthetic ones are added, and ``task_balance`` times that of the mean
    features. Learning rate 10 from ipc 100 on; the authors' students train for 1800 epochs in batches of 64.

    augment: a DSA strategy (leave out ``flip`` for digits), shared by the real and synthetic images of a class; or "none".
    networks: architectures of which one is drawn for every iteration, instead of the run's (a model pool).
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {"datadam": {}}

    networks: tuple[Architecture, ...] = ()
    iterations: int = Field(default=20_000, ge=0, le=10**9)
    batch_real: int = Field(default=256, ge=1)
    task_balance: float = Field(default=0.01, ge=0.0)
    augment: Strategy = STRATEGY
    init: Literal["real", "noise"] = "real"
    optim: Optim = Optim(images=Group(lr=1.0, momentum=0.5))

    def check(self, task: Task, ipc: int) -> None:
        task.check_among(self.networks)

    def start(self, task: Task, ipc: int, rng: RNG) -> SyntheticSet:
        probe = task.fresh(rng("check")).eval()
        maps = probe.maps(task.real.batch(torch.zeros(1, dtype=torch.long)).x)  # type: ignore[operator]
        if len(maps) < 2 and not self.task_balance:
            raise InputError(f"attention matches every feature map but the last, and {spec(task.network)} has only one, so "
                             "with task_balance=0 nothing is matched; choose a deeper network")
        return task.synthetic(task.first_images(ipc, self.init, rng), rng=rng("encode"))

    def iterate(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> Iterator[Step]:
        net = task.fresh_among(self.networks, rng("network")).requires_grad_(False)
        real = task.real_batch(self.batch_real, rng("real"))
        batch = synthetic.batch()
        with torch.no_grad():
            wanted = _means(task, net, augment_classes(real.x, real.y, rng("augment"), self.augment), real.y)
        found = _means(task, net, augment_classes(batch.x, batch.y, rng("augment"), self.augment), batch.y)
        *maps, features = (mean_feature_distance(a, b) for a, b in zip(wanted, found, strict=True))
        yield Step(SCALE * torch.stack([*maps, self.task_balance * features]).sum(), batch, net)


def _means(task: Task, net: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """Class means (K, D) of the attention of every map but the last, followed by those of the features."""
    seen = []
    how = task.passes(net, x)
    for (part,) in how.split(x):
        with task.autocast():
            features, maps = how.look(part)
        seen.append([*(attention(value.to(x.dtype)) for value in list(maps.values())[:-1]), features.to(x.dtype)])
    return [class_means(torch.cat(values), y) for values in zip(*seen, strict=True)]
