"""A queue of networks in training on real images, which are matched on at every stage of that training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from datastill.late import nn
from datastill.methods._real_training import RealTraining
from datastill.nets import Architecture
from datastill.rng import RNG
from datastill.task import Task
from datastill.train import cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

KEPT = "queue"  # in ``task.kept``


class Queue(RealTraining):
    """Networks that are trained on real images a little in every iteration, as in IDM (Zhao et al. 2023, CVPR).

    first: how many there are at the beginning. push: one more after this many iterations, the first at once. size: how many
    at most; then the oldest leaves. trained: how many, drawn at random, see ``images`` real images in an iteration.

    They are kept from one iteration to the next (``task.kept``), with their optimizers and how many of the real images they
    were right about while they were trained.
    """

    images: int = Field(default=2560, ge=1, le=10**9)
    batch_size: int = Field(default=256, ge=1)
    first: int = Field(default=3, ge=1, le=10_000)
    push: int = Field(default=30, ge=1, le=10**9)
    size: int = Field(default=100, ge=1, le=10_000)
    trained: int = Field(default=2, ge=0, le=10_000)

    def draw(self, task: Task, among: Sequence[Architecture], iteration: int, rng: RNG) -> tuple[nn.Module, float]:
        """A random network of the queue, frozen in evaluation mode, and its accuracy on real images so far, a fraction (0
        before any training)."""
        queue = self._queue(task)
        if not queue or iteration % self.push == 0:
            for number in range(self.first + 1 if not queue else 1):
                queue.append(self._new(task, among, rng("new", number)))
            del queue[:-self.size]
        one = queue[int(rng("draw").numpy().integers(len(queue)))]
        return self._network(task, among, one).eval().requires_grad_(False), one["right"] / max(1, one["seen"])

    def train(self, task: Task, among: Sequence[Architecture], rng: RNG) -> None:
        """Train some of them."""
        queue = self._queue(task)
        for place in rng("trained").permutation(len(queue))[:self.trained].tolist():
            queue[place] = self._advanced(task, among, queue[place], rng("training", place))

    def _queue(self, task: Task) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = task.kept.setdefault(KEPT, [])
        return found

    def _new(self, task: Task, among: Sequence[Architecture], rng: RNG) -> dict[str, Any]:
        which = int(rng("architecture").numpy().integers(max(1, len(among))))
        net = task.fresh_among(among[which:which + 1], rng("network"))
        return {"architecture": which, "training": {"network": net.state_dict()}, "right": 0, "seen": 0}

    def _network(self, task: Task, among: Sequence[Architecture], one: dict[str, Any]) -> nn.Module:
        net = task.fresh_among(among[one["architecture"]:one["architecture"] + 1], RNG("queue"))
        net.load_state_dict(one["training"]["network"])
        return net

    def _advanced(self, task: Task, among: Sequence[Architecture], one: dict[str, Any], rng: RNG) -> dict[str, Any]:
        """The same network after ``images`` more real images."""
        right, seen = one["right"], one["seen"]

        def counted(logits: Tensor, y: Tensor) -> Tensor:
            nonlocal right, seen
            right += int((logits.detach().argmax(1) == y.argmax(1)).sum())
            seen += len(y)
            return cross_entropy(logits, y)

        net = self._network(task, among, one)
        state = one["training"] if "epoch" in one["training"] else None  # or it was never trained
        training = self.training(net, task.real, rng, 1, counted, state)
        training.advance()
        training.check()
        return {**one, "training": training.state(), "right": right, "seen": seen}
