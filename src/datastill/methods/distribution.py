"""DM: match the mean features of real and synthetic images in fresh random networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from datastill.core import Group, Method, Optim, Step, Task
from datastill.functional.augment import STRATEGY, Strategy, augment_classes
from datastill.functional.distances import class_means, mean_feature_distance
from datastill.late import torch
from datastill.nets import Architecture
from datastill.rng import RNG

if TYPE_CHECKING:
    from datastill.synthetic import SyntheticSet


class DistributionMatching(Method):
    """Distribution matching (Zhao & Bilen 2023, WACV: "Dataset Condensation with Distribution Matching").

    Each iteration draws one random network and minimizes the sum over classes of the squared distance between the mean
    features of ``batch_real`` real images and of all synthetic ones. Both get the same augmentation, drawn for each class.
    The learning rate is 1 in the paper's code, and 10 from ipc 100 on.

    augment: a DSA strategy (leave out ``flip`` for digits), "dsa" for all operations, or "none".
    init: start from random real images, or from standard normal noise.
    networks: architectures of which one is drawn for every iteration, instead of the run's (a model pool).
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {"dm": {}}

    networks: tuple[Architecture, ...] = ()
    iterations: int = Field(default=20_000, ge=0, le=10**9)
    batch_real: int = Field(default=256, ge=1)
    augment: Strategy = STRATEGY
    init: Literal["real", "noise"] = "real"
    optim: Optim = Optim(images=Group(lr=1.0, momentum=0.5))

    def check(self, task: Task, ipc: int) -> None:
        task.check_among(self.networks)

    def start(self, task: Task, ipc: int, rng: RNG) -> SyntheticSet:
        return task.synthetic(task.first_images(ipc, self.init, rng), rng=rng("encode"))

    def iterate(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> Iterator[Step]:
        net = task.fresh_among(self.networks, rng("network")).requires_grad_(False)
        real = task.random_real(self.batch_real, rng("real"))
        batch = synthetic.batch()
        with torch.no_grad():
            wanted = class_means(task.features(net, augment_classes(real.x, real.y, rng("augment"), self.augment)), real.y)
        found = class_means(task.features(net, augment_classes(batch.x, batch.y, rng("augment"), self.augment)), batch.y)
        yield Step(mean_feature_distance(wanted, found), batch, net)
