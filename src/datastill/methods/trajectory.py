"""MTT and its kin: train on the synthetic images, and arrive where experts trained on the real ones do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from datastill import memory
from datastill.core import Group, Labeler, Method, Optim, Step, Task
from datastill.data import Batch
from datastill.description import NOT_DECISIVE
from datastill.digest import spec
from datastill.errors import InputError, RunError
from datastill.functional.augment import STRATEGY, Strategy, augment_images
from datastill.functional.inner import Inner
from datastill.functional.labels import mean_of_right
from datastill.functional.unroll import How, unroll
from datastill.late import nn, no_grad, torch
from datastill.nets import Architecture, as_function, chunk_size, couples_samples
from datastill.rng import RNG
from datastill.teachers import Pool, Teachers
from datastill.teachers._trained import Trained
from datastill.teachers.experts import Experts

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.synthetic import SyntheticSet


class TrajectoryMatching(Method):
    """Matching training trajectories: MTT (Cazenavette et al. 2022), and with other options TESLA (Cui et al. 2023), FTD
    (Du et al. 2023) and DATM (Guo et al. 2024).

    Each iteration takes an expert's weights at a start epoch, trains from there for ``steps`` steps of SGD on batches of
    synthetic images, and moves the images so that the weights come closer to the expert's ``expert_epochs`` later: the
    squared distance, relative to that between start and target.

    pool: the experts; of the run's own network and data unless others are named. With ``snapshots = []`` only the epochs
        that can be used are stored, and none beyond them trained unless the experts at their end are asked for (by ``init``
        or ``labels``). Another window then means other experts; "every" stores all, for trying several.
    min_start, max_start: start epochs are drawn from min_start to max_start - 1. first_start: the end of that window at
        iteration 0, from where it grows to max_start at iteration ``expand`` (DATM; 0: at its end from the beginning).
    batch_syn: synthetic images a step; 0 takes all.
    lr_net: learning rate of the inner training to begin with; learned where ``optim.inner_lr`` has a learning rate.
    init: "real"; or "correct": real images that the first expert is right about, at ``pool.epoch`` (DATM).
    labels: "hard"; "learned": soft labels that begin as the mean logits of the experts that are right (DATM), learned where
        ``optim.labels`` has a learning rate; "teacher": what the target weights say of the images, anew each step (TESLA).
    gradient: "exact", in the memory of one step; "tesla", the estimate, biased; "full", torch's own graph.
    threshold: iterations whose matching loss is above it change nothing (DATM; none: all do).
    keep_every, offload: keep the weights of every second, third, ... inner step, the others are made again; keep them in
        host memory.
    redraws: how often a segment whose inner training is not finite is drawn again before the run stops.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "mtt": {}, "tesla": {"gradient": "tesla"}, "ftd": {"pool": {"rho": 0.01}, "optim": {"ema": 0.9995}},
        "datm": {"pool": {"rho": 0.01}, "init": "correct", "labels": "learned", "threshold": 1.0,
                 "optim": {"labels": {"lr": 2.0, "momentum": 0.9}}}}
    provides = frozenset({"gradient_norms"})

    iterations: int = Field(default=5000, ge=0, le=10**9)
    pool: Pool = Experts(snapshots=())
    steps: int = Field(default=30, ge=1)
    expert_epochs: int = Field(default=2, ge=1)
    min_start: int = Field(default=0, ge=0)
    max_start: int = Field(default=20, ge=1)
    first_start: int = Field(default=0, ge=0)
    expand: int = Field(default=0, ge=0)
    batch_syn: int = Field(default=0, ge=0)
    augment: Strategy = STRATEGY
    lr_net: float = Field(default=0.01, gt=0.0)
    init: Literal["real", "correct", "noise"] = "real"
    labels: Literal["hard", "learned", "teacher"] = "hard"
    gradient: How = "exact"
    threshold: float | None = Field(default=None, gt=0.0)
    keep_every: Annotated[int, NOT_DECISIVE] = Field(default=1, ge=1)
    offload: Annotated[bool, NOT_DECISIVE] = False
    redraws: Annotated[int, NOT_DECISIVE] = Field(default=5, ge=0)
    optim: Optim = Optim(images=Group(lr=100.0, momentum=0.5), inner_lr=Group(lr=1e-5, momentum=0.5))

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.max_start <= self.min_start:
            raise ValueError(f"max_start {self.max_start}: expected more than min_start {self.min_start}")
        if self.first_start and not self.expand:
            raise ValueError(f"first_start {self.first_start} has no effect without expand, the iterations in which the "
                             "window grows from there")
        if self.expand and not self.min_start < self.first_start <= self.max_start:
            raise ValueError(f"first_start {self.first_start}: expected above min_start {self.min_start} and at most "
                             f"max_start {self.max_start}, to which the window grows in {self.expand} iterations")
        last = self.max_start - 1 + self.expert_epochs
        if (epochs := getattr(self.pool, "epochs", last)) < last:
            raise ValueError(f"max_start {self.max_start} and expert_epochs {self.expert_epochs}: segments end at epoch "
                             f"{last}, experts are trained for {epochs}; raise pool.epochs or lower max_start")
        if (stored := getattr(self.pool, "snapshots", "every")) and stored != "every" and (
                lacking := sorted(set(self._epochs()) - set(stored) - {epochs})):
            raise ValueError(f"pool.snapshots: epoch {lacking[0]} is needed and never stored; leave snapshots out")
        return self

    def _epochs(self) -> tuple[int, ...]:
        """Those that can be start or target of a segment."""
        starts = range(self.min_start, self.max_start)
        return tuple(sorted({*starts, *(epoch + self.expert_epochs for epoch in starts)}))

    def experts(self, network: Architecture) -> Pool:
        """The pool with what it leaves open filled in: the run's network, the epochs that can be used."""
        pool, changes = self.pool.for_network(network), dict[str, Any]()
        if isinstance(pool, Trained) and pool.snapshots == ():
            used = self._epochs()
            asked = self.init == "correct" or self.labels == "learned" or pool.epoch != "last"
            changes["snapshots"] = tuple(sorted({*used, *({pool.epoch} - {"last"})}))
            if not (asked or pool.drops):
                changes["epochs"] = used[-1]
        return type(pool).model_validate({**dict(pool), **changes})

    def pools(self, network: Architecture) -> tuple[Pool, ...]:
        return (self.experts(network),)

    def window(self, iteration: int) -> int:
        """The end, exclusive, of the start epochs at this iteration."""
        if not self.expand:
            return self.max_start
        return min(self.max_start, self.first_start + int((self.max_start - self.first_start) * iteration / self.expand))

    def check(self, task: Task, ipc: int) -> None:
        if self.batch_syn > (count := task.decoded(ipc)):
            raise InputError(f"method.batch_syn {self.batch_syn} is more than the {count} synthetic images; use 0 for all")
        pool = self.experts(task.network)
        if pool.networks != (task.network,):
            raise InputError(f"method.pool.networks: the experts are {', '.join(map(spec, pool.networks))}, the run's "
                             f"network is {spec(task.network)}; trajectories can be matched on the same network only")
        if type(pool).trajectory is Pool.trajectory:
            pool.trajectory(task.context, 0)  # which says that there are none
        net = task.fresh(RNG("check"))
        if couples_samples(net):
            raise InputError(f"trajectories cannot be matched on {spec(task.network)}: its normalization has running "
                             "statistics, which are no weights; use norm=instance, or another per image")
        if others := sorted(set(net.state_dict()) - {name for name, _ in net.named_parameters()}):
            raise InputError(f"trajectories cannot be matched on {spec(task.network)}: its {others[0]} is stored with the "
                             "weights and is none of its own (a buffer, or shared by two layers)")
        pool.check(task.context)
        there, here = pool.domain(task.context), task.real
        pairs = {what: (getattr(there, what), getattr(here, what)) for what in ("classes", "shape", "mean", "std")}
        white = ["none" if one.whitening is None else one.whitening.identity for one in (there, here)]
        for what, (theirs, ours) in {**pairs, "ZCA whitening": white}.items():
            if theirs != ours:
                raise InputError(f"the experts are of other data: their {what} is {theirs}, the run's is {ours}; leave "
                                 "method.pool.data out, so that they are trained on the run's data")

        if self.gradient == "full" and (needed := self.memory(task, ipc)["gradient=full"]) > (
                limit := memory.SHARE * memory.total(task.device)):
            raise InputError(f"method.gradient full: the graph of {self.steps} steps takes about {needed / 2**30:.0f} GiB, "
                             f"{limit / 2**30:.0f} GiB may be taken here; gradient=exact is the same in the memory of one")

    @property
    def has_soft_labels(self) -> bool:
        return self.labels == "learned"

    @property
    def has_learned_lr(self) -> bool:
        return True

    def memory(self, task: Task, ipc: int) -> Mapping[str, int]:
        """By gradient. Peaks are about three times what the graph of a step, or of one of its chunks, holds; on a CPU the
        allocator keeps two fifths more (measured: benchmarks/trajectory.py)."""
        net, images = task.fresh(RNG("memory")), self.batch_syn or task.decoded(ipc)
        start, predict = as_function(net)
        few, more = (self._held(predict, start, task, count) for count in (2, 4))
        each = (more - few) // 2
        fixed, slack = max(0, few - 2 * each), 1.4 if task.device.type == "cpu" else 1.1
        chunk = chunk_size(net, task.real.batch(torch.tensor([0])).x.expand(images, -1, -1, -1))
        at_once, weights = 3 * (fixed + chunk * each), 4 * len(start)
        kept = 0 if self.offload and task.device.type != "cpu" else -(-self.steps // self.keep_every)
        return {"gradient=exact": int(slack * at_once) + (kept + self.keep_every) * weights,
                "gradient=tesla": int(slack * at_once) + (kept + self.keep_every) * weights,
                "gradient=full": int(slack * (self.steps + 2) * (fixed + images * each))}

    def _held(self, predict: Any, start: Tensor, task: Task, count: int) -> int:
        """Bytes held by the graph of one inner step on so many images."""
        x, y = task.real.batch(torch.arange(count))
        inner = Inner(predict, [torch.arange(count)], self._augmented(RNG("memory")))
        x, weights = x.clone().requires_grad_(), start.clone().requires_grad_()
        return memory.held_by_graph(lambda: torch.autograd.grad(inner.loss(weights, x, y, 0), weights, create_graph=True))

    def prepare(self, task: Task) -> Mapping[str, Any]:
        pool = self.experts(task.network)
        pool.prepare(task.context)
        for number in range(pool.size):
            for epoch in self._epochs():
                task.teachers(pool).trajectory(number).weights(epoch)  # which finds what is damaged before the work starts
        return {"teachers": pool.facts(task.context)}

    def start(self, task: Task, ipc: int, rng: RNG) -> SyntheticSet:
        pool = self.experts(task.network)
        if self.init == "correct":
            batch = _recognized(task, pool, ipc, rng("correct"))
        else:
            batch = task.first_images(ipc, self.init, rng)
        if self.labels == "learned":
            batch = Batch(batch.x, self._opinion(task, batch))
        return task.synthetic(batch, soft=self.labels == "learned", lr=self.lr_net, rng=rng("encode"))

    def labeler(self, task: Task) -> Labeler | None:
        if self.labels != "learned":
            return None
        name = self.experts(task.network).digest(task.real.fingerprint, *self.pool.identity(task.data_root))
        return Labeler(name, lambda batch: self._opinion(task, batch).softmax(1))

    def conclusions(self, log: Sequence[Mapping[str, Any]]) -> Iterable[str]:
        skipped = sum(line.get("skipped", 0.0) for line in log)
        if skipped > len(log) / 2:
            yield (f"{skipped:.0f} of these iterations changed nothing: their loss was above method.threshold; raise it, or "
                   "change the inner training until the loss is below it")

    @no_grad
    def _opinion(self, task: Task, batch: Batch) -> Tensor:
        """Mean logits (B, K) of the experts that are right about an image."""
        experts = task.teachers(self.experts(task.network))
        return mean_of_right(torch.stack([_logits(one.network, batch.x) for one in experts]), batch.y.argmax(1))

    def iterate(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> Iterator[Step]:
        pool = self.experts(task.network)
        net = task.fresh(rng("network"))
        for attempt in range(self.redraws + 1):
            step = self._match(iteration, net, synthetic, task, task.teachers(pool), rng("segment", attempt))
            if bool(torch.isfinite(step.loss)):
                if attempt:
                    step = replace(step, log={**step.log, "redrawn": float(attempt)}, caution=(
                        "the inner training was not finite on a segment, another was drawn; if that goes on (redrawn in the "
                        "log), lower method.lr_net or method.optim.inner_lr.lr"))
                yield step
                return
        now = 0.0 if synthetic.lr is None else float(synthetic.lr.detach())
        raise RunError(f"iteration {iteration}: the inner training was not finite on {self.redraws + 1} segments in a row; "
                       f"the last good checkpoint is kept. Lower method.lr_net (now {now:.3g}, "
                       "learned), method.optim.inner_lr.lr or method.optim.images.lr")

    def _match(self, iteration: int, net: nn.Module, synthetic: SyntheticSet, task: Task, experts: Teachers,
               rng: RNG) -> Step:
        pick = rng("expert").numpy()
        trajectory = experts.trajectory(int(pick.integers(len(experts))))
        epoch = int(pick.integers(self.min_start, self.window(iteration)))
        start, target = trajectory.weights(epoch), trajectory.weights(epoch + self.expert_epochs)
        batch = synthetic.batch()
        y = self._labels(net, target, batch)
        _, predict = as_function(net)
        inner = Inner(predict, self._batches(len(batch.x), rng("order"), task.device), self._augmented(rng("augment")),
                      chunk_size(net, batch.x), lambda number: rng("inside", number).as_global(task.device))
        assert synthetic.lr is not None
        if not bool((way := (start - target).square().sum()) > 0):
            raise RunError(f"iteration {iteration}: {self.expert_epochs} epochs after epoch {epoch} the expert is where it "
                           "was, so there is no way to match. Raise method.pool.lr, or lower method.max_start")
        found = unroll(inner, start, batch.x, y, synthetic.lr, self.gradient, every=self.keep_every, offload=self.offload)
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
            return _logits(net, batch.x).softmax(1)

    def _batches(self, count: int, rng: RNG, device: torch.device) -> list[Tensor]:
        """Rows of each step: through all images in a fresh order, again and again; a short batch comes first, as theirs."""
        size, batches = self.batch_syn or count, list[Any]()
        while len(batches) < self.steps:
            batches += reversed(rng("pass", len(batches)).permutation(count).split(size))
        return [rows.to(device) for rows in batches[:self.steps]]

    def _augmented(self, rng: RNG) -> Any:
        if self.augment == "none":
            return None
        return lambda x, number: augment_images(x, rng(number), self.augment)


def _logits(net: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([net(part) for part in x.split(chunk_size(net, x))])


def _assign(net: nn.Module, weights: Tensor) -> None:
    """Make a vector the network's parameters."""
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(weights, net.parameters())


def _recognized(task: Task, pool: Pool, ipc: int, rng: RNG) -> Batch:
    """Random real images of each class that the first expert is right about; where they are too few, others too (ours)."""
    expert = task.teachers(pool).teacher(0, 0).network
    rows = []
    for c, of_class in enumerate(task.real.of_class):
        order = torch.as_tensor(of_class).cpu()[rng(c).permutation(len(of_class))]
        right: list[Tensor] = []
        wrong: list[Tensor] = []
        for part in order.split(max(64, 4 * ipc)):
            with torch.no_grad():
                hit = (_logits(expert, task.real.batch(part).x).argmax(1) == c).cpu()
            right.append(part[hit])
            wrong.append(part[~hit])
            if sum(map(len, right)) >= ipc:
                break
        rows.append(torch.cat([*right, *wrong])[:ipc])
    return task.real.batch(torch.cat(rows))
