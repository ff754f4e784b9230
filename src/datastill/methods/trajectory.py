"""MTT and its variants: train on the synthetic images, and arrive where experts trained on the real ones do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from datastill import memory
from datastill.core import Group, Labeler, Method, Optim, Step
from datastill.data import Batch, Images
from datastill.description import NOT_DECISIVE
from datastill.errors import InputError, RunError
from datastill.functional.augment import STRATEGY, Strategy, augment_images
from datastill.functional.inner import Inner
from datastill.functional.unroll import How, unroll
from datastill.late import nn, torch
from datastill.methods._opinions import logits, opinion, recognized
from datastill.methods._segments import Segments
from datastill.methods._unroll_memory import Held, unroll_memory
from datastill.nets import as_function, passes
from datastill.rng import RNG
from datastill.tables import counted
from datastill.task import Task
from datastill.teachers import Pool, Teachers

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.synthetic import SyntheticSet


class TrajectoryMatching(Segments):
    """Matching training trajectories: MTT (Cazenavette et al. 2022), and with other options TESLA (Cui et al. 2023), FTD
    (Du et al. 2023) and DATM (Guo et al. 2024).

    Each iteration takes an expert's weights at a start epoch, trains from there for ``steps`` steps of SGD on batches of
    synthetic images, and moves the images so that the weights come closer to the expert's ``expert_epochs`` later: the
    squared distance, relative to that between start and target.

    batch_syn: synthetic images per step; 0 uses all.
    lr_net: initial learning rate of the inner training; learned if ``optim.inner_lr`` has a learning rate.
    init: "real"; or "correct": real images that the first expert classifies correctly, at ``pool.epoch`` (DATM).
    labels: "hard"; "learned": soft labels initialized with the mean logits of the experts that are correct (DATM), learned
        if ``optim.labels`` has a learning rate; "teacher": the target weights' predictions, updated each step (TESLA).
    gradient: "exact", with the memory of one step; "tesla", the estimate, biased; "full", torch's own graph.
    threshold: iterations whose matching loss is above it change nothing (DATM; none: no threshold).
    keep_graphs: inner steps whose graphs are kept; the others are recomputed, which takes a third longer. none: a third of
        the steps, up to four, or as many as fit in an eighth of the memory.
    keep_every, offload: store the weights of every second, third, ... inner step and recompute the others; store them in
        host memory.
    redraws: how often a segment whose inner training diverges is drawn again before the run stops.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "mtt": {}, "tesla": {"gradient": "tesla"}, "ftd": {"pool": {"rho": 0.01}, "optim": {"ema": 0.9995}},
        "datm": {"pool": {"rho": 0.01}, "init": "correct", "labels": "learned", "threshold": 1.0,
                 "optim": {"labels": {"lr": 2.0, "momentum": 0.9}}}}
    provides = frozenset({"gradient_norms"})

    iterations: int = Field(default=5000, ge=0, le=10**9)
    steps: int = Field(default=30, ge=1, le=10**5)
    batch_syn: int = Field(default=0, ge=0)
    augment: Strategy = STRATEGY
    lr_net: float = Field(default=0.01, gt=0.0)
    init: Literal["real", "correct", "noise"] = "real"
    labels: Literal["hard", "learned", "teacher"] = "hard"
    gradient: How = "exact"
    threshold: float | None = Field(default=None, gt=0.0)
    keep_graphs: Annotated[int | None, NOT_DECISIVE] = Field(default=None, ge=0)
    keep_every: Annotated[int, NOT_DECISIVE] = Field(default=1, ge=1)
    offload: Annotated[bool, NOT_DECISIVE] = False
    redraws: Annotated[int, NOT_DECISIVE] = Field(default=5, ge=0, le=1000)
    optim: Optim = Optim(images=Group(lr=100.0, momentum=0.5), inner_lr=Group(lr=1e-5, momentum=0.5))

    def check(self, task: Task, ipc: int) -> None:
        if self.batch_syn > (count := task.decoded(ipc)):
            raise InputError(f"method.batch_syn {self.batch_syn} is more than the {count} synthetic images; use 0 for all")
        self.check_experts(task)
        if self.gradient == "full" and (needed := self.memory(task, ipc)["gradient=full"]) > (
                limit := memory.SHARE * memory.total(task.device)):
            raise InputError(f"method.gradient full: the graph of {self.steps} steps takes about {needed / 2**30:.0f} GiB, "
                             f"{limit / 2**30:.0f} GiB may be used here; gradient=exact is the same with the memory of one")

    @property
    def asks_finished_experts(self) -> bool:
        return self.init == "correct" or self.labels == "learned"

    @property
    def has_soft_labels(self) -> bool:
        return self.labels == "learned"

    def memory(self, task: Task, ipc: int) -> Mapping[str, int]:
        kept = 0 if self.offload and task.device.type != "cpu" else -(-self.steps // self.keep_every)
        batch, found = self.batch_syn or task.decoded(ipc), dict[str, int]()
        pool = self.experts(task.network)
        for group in range(len(pool.networks)):
            held = unroll_memory(_network(pool, group, task, RNG("memory")), task, self.augment, batch)
            peaks = held.peaks(self.steps, kept + self.keep_every, self._graphs(task, held))
            found = {name: max(peak, found.get(name, 0)) for name, peak in peaks.items()}
        return found

    def _graphs(self, task: Task, held: Held) -> int:
        """How many steps keep their graphs."""
        return held.graphs(self.steps, task.device) if self.keep_graphs is None else min(self.keep_graphs, self.steps)

    def rehearsal(self, task: Task, ipc: int) -> tuple[Method, Images, float]:
        steps, images = min(self.steps, 2), self.batch_syn or task.decoded(ipc)
        few = min(images, 16)
        method = self.model_copy(update={"steps": steps, "batch_syn": few})
        return method, task.real, self.steps / steps * images / few

    @property
    def has_learned_lr(self) -> bool:
        return True

    def start(self, task: Task, ipc: int, rng: RNG) -> SyntheticSet:
        pool = self.experts(task.network)
        if self.init == "correct":
            batch = recognized(task, pool, ipc, rng("correct"))
        else:
            batch = task.first_images(ipc, self.init, rng)
        if self.labels == "learned":
            batch = Batch(batch.x, opinion(task, self.experts(task.network), batch))
        return task.synthetic(batch, soft=self.labels == "learned", lr=self.lr_net, rng=rng("encode"))

    def labeler(self, task: Task) -> Labeler | None:
        if self.labels != "learned":
            return None
        name = self.experts(task.network).digest(task.real.fingerprint, *self.pool.identity(task.data_root))
        return Labeler(name, lambda batch: opinion(task, self.experts(task.network), batch).softmax(1))

    def conclusions(self, log: Sequence[Mapping[str, Any]]) -> Iterable[str]:
        skipped = sum(line.get("skipped", 0.0) for line in log)
        if skipped > len(log) / 2:
            yield (f"{skipped:.0f} of these iterations changed nothing: their loss was above method.threshold; raise it, or "
                   "change the inner training until the loss is below it")

    def iterate(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> Iterator[Step]:
        pool = self.experts(task.network)
        for attempt in range(self.redraws + 1):
            step = self._match(iteration, synthetic, task, task.teachers(pool), rng("network"), rng("segment", attempt))
            if bool(torch.isfinite(step.loss)):
                if attempt:
                    step = replace(step, log={**step.log, "redrawn": float(attempt)}, caution=(
                        "the inner training diverged on a segment, so another was drawn; if this continues (redrawn in the "
                        "log), lower method.lr_net or method.optim.inner_lr.lr"))
                yield step
                return
        now = 0.0 if synthetic.lr is None else float(synthetic.lr.detach())
        raise RunError(f"iteration {iteration}: the inner training diverged on {self.redraws + 1} consecutive segments. "
                       f"Lower method.lr_net (now {now:.3g}, learned), method.optim.inner_lr.lr or method.optim.images.lr")

    def _match(self, iteration: int, synthetic: SyntheticSet, task: Task, experts: Teachers, fresh: RNG, rng: RNG) -> Step:
        pick = rng("expert").numpy()
        group, number = divmod(int(pick.integers(len(experts))), experts.pool.size)
        net, trajectory = _network(experts.pool, group, task, fresh), experts.trajectory(number, group)
        epoch = int(pick.integers(self.min_start, self.window(iteration)))
        start, target = trajectory.weights(epoch), trajectory.weights(epoch + self.expert_epochs)
        batch = synthetic.batch()
        y = self._labels(net, target, batch)
        _, predict = as_function(net)
        batches = self._batches(len(batch.x), rng("order"), task.device)
        how = passes(net, batch.x[:max(map(len, batches))], "second", self.steps)
        inner = Inner(lambda weights, x: how.run(predict, weights, x), batches, self._augmented(rng("augment")),
                      how.form.chunk, lambda number: rng("inside", number).as_global(task.device))
        assert synthetic.lr is not None
        if not bool((way := (start - target).square().sum()) > 0):
            raise RunError(f"iteration {iteration}: the expert's weights do not change in the "
                           f"{counted(self.expert_epochs, 'epoch')} after epoch {epoch}, so there is nothing to match. "
                           "Raise method.pool.lr, or lower method.max_start")
        graphs = self._graphs(task, unroll_memory(net, task, self.augment, max(map(len, inner.batches))))
        found = unroll(inner, start, batch.x, y, synthetic.lr, self.gradient, every=self.keep_every, offload=self.offload,
                       graphs=graphs)
        loss = (found.last - target).square().sum() / way
        _assign(net, start)
        value = float(loss.detach())
        apply = self.threshold is None or value <= self.threshold
        skipped = {} if self.threshold is None else {"skipped": float(not apply)}
        return Step(loss, batch, net, value=value, gradient_norms=found.norms, norm_reduce="mean", apply=apply,
                    log={"start": float(epoch), "lr": float(synthetic.lr.detach()), **skipped})

    def _labels(self, net: nn.Module, target: Tensor, batch: Batch) -> Tensor:
        """Labels of the inner training, (N, K)."""
        if self.labels != "teacher":
            return batch.y
        _assign(net, target)
        with torch.no_grad():
            return logits(net, batch.x).softmax(1)

    def _batches(self, count: int, rng: RNG, device: torch.device) -> list[Tensor]:
        """Rows of each step: repeated passes over all images in a fresh order; a short batch comes first, as in MTT."""
        size, batches = self.batch_syn or count, list[Any]()
        while len(batches) < self.steps:
            batches += reversed(rng("pass", len(batches)).permutation(count).split(size))
        return [rows.to(device) for rows in batches[:self.steps]]

    def _augmented(self, rng: RNG) -> Any:
        if self.augment == "none":
            return None
        return lambda x, number: augment_images(x, rng(number), self.augment)


def _network(experts: Pool, group: int, task: Task, rng: RNG) -> nn.Module:
    """A network of the experts' architecture ``group``."""
    return task.fresh_among(experts.networks[group:group + 1] if len(experts.networks) > 1 else (), rng)


def _assign(net: nn.Module, weights: Tensor) -> None:
    """Set the network's parameters from a vector."""
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(weights, net.parameters())
