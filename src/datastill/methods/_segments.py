"""Segments of experts' trajectories: which epochs they start and end at, and which pools have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from datastill.core import Method
from datastill.digest import spec
from datastill.errors import InputError
from datastill.nets import Architecture, couples_samples
from datastill.rng import RNG
from datastill.tables import counted
from datastill.task import Task
from datastill.teachers import Pool
from datastill.teachers._trained import Trained
from datastill.teachers.experts import Experts


class Segments(Method):
    """A method that compares its own training with segments of experts' trajectories.

    pool: the experts; by default of the run's own network and data. With several networks (a model pool) each segment is of
        an expert of one of them, drawn, on which the set is matched then. With ``snapshots = []`` only the epochs that can
        be used are stored, and training ends there unless the finished experts are needed. Another window then needs other
        experts; "every" stores all epochs, for trying several windows.
    min_start, max_start: start epochs are drawn from min_start to max_start - 1. first_start: the end of that window at
        iteration 0; it grows to max_start at iteration ``expand`` (DATM; 0: the full window from the beginning).
    expert_epochs: epochs from the start of a segment to its end.
    """

    pool: Pool = Experts(snapshots=())
    expert_epochs: int = Field(default=2, ge=1, le=10**4)
    min_start: int = Field(default=0, ge=0, le=10**4)
    max_start: int = Field(default=20, ge=1, le=10**4)
    first_start: int = Field(default=0, ge=0)
    expand: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.max_start <= self.min_start:
            raise ValueError(f"max_start {self.max_start}: expected more than min_start {self.min_start}")
        if self.first_start and not self.expand:
            raise ValueError(f"first_start {self.first_start} has no effect without expand, the number of iterations in "
                             "which the window grows")
        if self.expand and not self.min_start < self.first_start <= self.max_start:
            raise ValueError(f"first_start {self.first_start}: expected above min_start {self.min_start} and at most "
                             f"max_start {self.max_start}, to which the window grows in {counted(self.expand, 'iteration')}")
        last = self.max_start - 1 + self.expert_epochs
        if (epochs := getattr(self.pool, "epochs", last)) < last:
            raise ValueError(f"max_start {self.max_start} and expert_epochs {self.expert_epochs}: segments end at epoch "
                             f"{last}, experts are trained for {counted(epochs, 'epoch')}; raise pool.epochs or lower "
                             "max_start")
        if (stored := getattr(self.pool, "snapshots", "every")) and stored != "every" and (
                lacking := sorted(set(self._epochs()) - set(stored) - {epochs})):
            raise ValueError(f"pool.snapshots: epoch {lacking[0]} is needed but never stored; leave snapshots out")
        return self

    def _epochs(self) -> tuple[int, ...]:
        """Epochs that can be the start or the target of a segment."""
        starts = range(self.min_start, self.max_start)
        return tuple(sorted({*starts, *(epoch + self.expert_epochs for epoch in starts)}))

    def experts(self, network: Architecture) -> Pool:
        """The pool with its open settings filled in: the run's network, the epochs that can be used."""
        pool, changes = self.pool.for_network(network), dict[str, Any]()
        if isinstance(pool, Trained) and pool.snapshots == ():
            used = self._epochs()
            changes["snapshots"] = tuple(sorted({*used, *({pool.epoch} - {"last"})}))
            if not (self.asks_finished_experts or pool.epoch != "last" or pool.drops):
                changes["epochs"] = used[-1]
        return type(pool).model_validate({**dict(pool), **changes})

    def pools(self, network: Architecture) -> tuple[Pool, ...]:
        return (self.experts(network),)

    def window(self, iteration: int) -> int:
        """The end, exclusive, of the start epochs at this iteration."""
        if not self.expand:
            return self.max_start
        return min(self.max_start, self.first_start + int((self.max_start - self.first_start) * iteration / self.expand))

    @property
    def asks_finished_experts(self) -> bool:
        """Whether it also needs the experts at the end of their training."""
        return False

    def check_experts(self, task: Task) -> None:
        """Check that trajectories of the pool can be matched on this task. Raises InputError."""
        pool = self.experts(task.network)
        if len(pool.networks) == 1 and pool.networks != (task.network,):
            raise InputError(f"method.pool.networks: the experts are {', '.join(map(spec, pool.networks))}, the run's "
                             f"network is {spec(task.network)}; trajectories can only be matched on the same network")
        if type(pool).trajectory is Pool.trajectory:
            pool.trajectory(task.context, 0)  # raises if there are none
        for network in pool.networks:
            self._check_weights(network, task)
        pool.check(task.context)
        there, here = pool.domain(task.context), task.real
        pairs = {what: (getattr(there, what), getattr(here, what)) for what in ("classes", "shape", "mean", "std")}
        white = ["none" if one.whitening is None else one.whitening.identity for one in (there, here)]
        for what, (theirs, ours) in {**pairs, "ZCA whitening": white}.items():
            if theirs != ours:
                raise InputError(f"the experts are from other data: their {what} is {theirs}, the run's is {ours}; leave "
                                 "method.pool.data out, so that they are trained on the run's data")

    def _check_weights(self, network: Architecture, task: Task) -> None:
        """Check that all that a network learns is its weights. Raises InputError."""
        net = task.fresh_among((network,), RNG("check"))
        if couples_samples(net):
            raise InputError(f"trajectories cannot be matched on {spec(network)}: its normalization has running "
                             "statistics, which are not weights; use norm=instance, or another per-image norm")
        if others := sorted(set(net.state_dict()) - {name for name, _ in net.named_parameters()}):
            raise InputError(f"trajectories cannot be matched on {spec(network)}: its {others[0]} is stored with the "
                             "weights but is not a parameter of its own (a buffer, or shared by two layers)")

    def prepare(self, task: Task) -> Mapping[str, Any]:
        pool = self.experts(task.network)
        pool.prepare(task.context)
        for group, number in pool.members():
            for epoch in self._epochs():
                task.teachers(pool).trajectory(number, group).weights(epoch)  # finds damaged files before the work starts
        return {"teachers": pool.facts(task.context)}
