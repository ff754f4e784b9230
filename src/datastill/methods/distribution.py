"""DM and IDM: match the mean features of real and synthetic images, in fresh networks or in networks in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from datastill.core import Group, Method, Optim, Step
from datastill.functional.augment import STRATEGY, Strategy, augment_classes
from datastill.functional.distances import class_means, mean_feature_distance
from datastill.late import F, nn, torch
from datastill.methods._queue import Queue
from datastill.nets import Architecture
from datastill.rng import RNG
from datastill.task import Task

if TYPE_CHECKING:
    from datastill.synthetic import SyntheticSet


class DistributionMatching(Method):
    """Distribution matching: DM (Zhao & Bilen 2023, WACV: "Dataset Condensation with Distribution Matching"), and with
    ``queue`` IDM (Zhao, Li, Qin & Yu 2023, CVPR: "Improved Distribution Matching for Dataset Condensation").

    Each iteration draws one random network and minimizes the sum over classes of the squared distance between the mean
    features of ``batch_real`` real images and of all synthetic ones. Both get the same augmentation, drawn for each class.
    The learning rate is 1 in the paper's code, and 10 from ipc 100 on.

    augment: a DSA strategy (leave out ``flip`` for digits), "dsa" for all operations, or "none".
    init: start from random real images, or from standard normal noise.
    networks: architectures of which one is drawn for every iteration, instead of the run's (a model pool).
    queue: match on networks that are trained on real images meanwhile (IDM). classification: weight of the cross-entropy of
        the synthetic images in that network, times its accuracy on real images so far, in percent.

    IDM's code updates after every class, we once for all classes, as in DM; only how momentum spreads differs. Its running
    accuracy is reset from time to time, ours is over the network's whole training. The parametrization (``tiles``) is set by
    the recipe.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "dm": {}, "idm": {"queue": {}, "classification": 0.5, "optim": {"images": {"lr": 0.2}}}}

    networks: tuple[Architecture, ...] = ()
    iterations: int = Field(default=20_000, ge=0, le=10**9)
    batch_real: int = Field(default=256, ge=1)
    augment: Strategy = STRATEGY
    init: Literal["real", "noise"] = "real"
    queue: Queue | None = None
    classification: float = Field(default=0.0, ge=0.0, le=1e6)
    optim: Optim = Optim(images=Group(lr=1.0, momentum=0.5))

    @model_validator(mode="after")
    def _knows(self) -> Self:
        if self.classification and self.queue is None:
            raise ValueError(f"classification {self.classification:g}: networks that are not trained know no classes; set "
                             "method.queue, as method=idm does")
        return self

    def check(self, task: Task, ipc: int) -> None:
        task.check_among(self.networks)

    def memory(self, task: Task, ipc: int) -> Mapping[str, int]:
        if self.queue is None:
            return {}
        nets = [task.fresh_among(self.networks[n:n + 1], RNG("memory")) for n in range(max(1, len(self.networks)))]
        largest = max(sum(one.nbytes for one in net.state_dict().values()) for net in nets)
        return {f"queue.size={self.queue.size}": 2 * self.queue.size * largest}  # with the optimizers' momentum

    def start(self, task: Task, ipc: int, rng: RNG) -> SyntheticSet:
        return task.synthetic(task.first_images(ipc, self.init, rng), rng=rng("encode"))

    def iterate(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> Iterator[Step]:
        net, accuracy = self._network(iteration, task, rng("network"))
        real = task.real_batch(self.batch_real, rng("real"))
        batch = synthetic.batch()
        with torch.no_grad():
            wanted = class_means(task.features(net, augment_classes(real.x, real.y, rng("augment"), self.augment)), real.y)
        shown = augment_classes(batch.x, batch.y, rng("augment"), self.augment)
        found = class_means(task.features(net, shown), batch.y)
        distance = mean_feature_distance(wanted, found)
        if self.queue is None:
            yield Step(distance, batch, net)
            return
        wrong = F.cross_entropy(task.logits(net, shown), batch.y) * len(task.here)  # summed over classes, as the distance
        loss = distance + self.classification * 100 * accuracy * wrong
        yield Step(loss, batch, net, log={"distance": float(distance.detach()), "cross_entropy": float(wrong.detach()),
                                          "accuracy": accuracy})
        self.queue.train(task, self.networks, rng("queue"))

    def _network(self, iteration: int, task: Task, rng: RNG) -> tuple[nn.Module, float]:
        """A network to match on, frozen, and its accuracy on real images."""
        if self.queue is None:
            return task.fresh_among(self.networks, rng).requires_grad_(False), 0.0
        return self.queue.draw(task, self.networks, iteration, rng)
