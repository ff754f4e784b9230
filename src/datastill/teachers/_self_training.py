"""Training a network without labels: two views of every image, heads and losses of lightly; then a linear classifier."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import lightly.loss as losses
import torch
from lightly.models.modules import heads
from lightly.models.utils import update_momentum
from torch import Tensor, nn

from datastill.data import Images
from datastill.errors import RunError
from datastill.rng import RNG
from datastill.teachers._probe import features, probe
from datastill.teachers._views import Views
from datastill.train import LARGEST_WEIGHT, batches

if TYPE_CHECKING:
    from datastill.teachers.self_supervised import SelfSupervised

BANK, NEIGHBORS, SHARPNESS = 5000, 200, 0.1  # training images, how many neighbors vote, temperature of their votes
TEACHER = ("moco_v2", "byol", "dino")  # losses with a second network, a running mean of the first


class SelfTraining:
    """Trains ``network``'s features on pairs of views, one epoch at a time, and its classifier after the last one."""

    def __init__(self, pool: SelfSupervised, network: nn.Module, images: Images, rng: RNG) -> None:
        self.pool, self.network, self.images, self.rng, self.epoch = pool, network, images, rng, 0
        with torch.no_grad():  # in evaluation mode: what batch normalization remembers is of views
            width = network.eval().embed(images.batch(torch.arange(2)).x).shape[1]  # type: ignore[operator]
        with rng("heads").as_global(images.device), torch.device(images.device):
            self.heads = _heads(pool, width)
            self.loss = _loss(pool).to(images.device)
            again = _heads(pool, width)  # not a copy: weight normalization cannot be copied
        again.load_state_dict(self.heads.state_dict())
        self.second = nn.ModuleDict({"network": copy.deepcopy(network), "heads": again} if pool.loss in TEACHER else {})
        self.second.requires_grad_(False)
        learned = [*network.parameters(), *self.heads.parameters(), *self.loss.parameters()]
        self.updates = torch.optim.SGD(learned, pool.lr, momentum=pool.momentum, weight_decay=pool.weight_decay)
        _BANKS[network] = images
        self.views = Views(images)

    def advance(self) -> float:
        """One more epoch. Returns the mean loss; raises RunError if it is not finite."""
        epoch, found = self.epoch, []
        self.network.train()
        for group in self.updates.param_groups:
            group["lr"] = self.pool.rates[epoch]
        order = self.rng("order", epoch).permutation(len(self.images))
        parts = batches(order, self.pool.batch_size, alone=False)
        for number, (one, two) in enumerate(self.views.batches(parts, self.rng("views", epoch))):
            self.updates.zero_grad(set_to_none=True)
            with self.rng("inside", epoch, number).as_global(self.images.device):
                value = self._loss(one, two)
            value.backward()
            self.updates.step()
            for name, part in self.second.items():
                update_momentum(self.network if name == "network" else self.heads, part, self.pool.ema)
            found.append(value.detach())
        mean = float(torch.stack(found).mean())
        if not math.isfinite(mean):
            raise RunError(f"training without labels diverged: loss {mean} in epoch {epoch} at learning rate "
                           f"{self.pool.rates[epoch]:g}; lower the pool's lr")
        self.epoch += 1
        if self.epoch == self.pool.epochs:
            probe(self.network, self.images, self.pool.probe_epochs, self.pool.probe_lr, self.rng("probe"))
        return mean

    def _loss(self, one: Tensor, two: Tensor) -> Tensor:
        kind: str = self.pool.loss
        if kind == "moco_v2":  # the network sees the first view only, its running mean the second
            return self.loss(self._project(one), self._second(two))
        first = [self._project(x) for x in (one, two)]
        second = [self._second(x) for x in (one, two)] if kind in TEACHER else []
        if kind == "byol":
            a, b = (self.heads["predict"](z) for z in first)
            return 0.5 * (self.loss(a, second[1]) + self.loss(b, second[0]))
        if kind == "dino":
            return self.loss(second, first, epoch=self.epoch)
        if kind == "swav":
            prototypes: Any = self.heads["prototypes"]
            prototypes.normalize()
            return self.loss([prototypes(nn.functional.normalize(z, dim=1)) for z in first], [])
        return self.loss(*first)

    def _project(self, x: Tensor) -> Tensor:
        found: Tensor = self.heads["project"](self.network.embed(x))  # type: ignore[operator]
        return found

    @torch.no_grad()
    def _second(self, x: Tensor) -> Tensor:
        found: Tensor = self.second["heads"]["project"](self.second["network"].embed(x))  # type: ignore[index, operator]
        return found

    def check(self) -> None:
        """Check the final weights. Raises RunError."""
        largest = float(torch.stack([parameter.detach().abs().max() for parameter in self.network.parameters()]).max())
        if not largest <= LARGEST_WEIGHT:
            raise RunError(f"training without labels diverged: a weight is {largest:.3g}; lower the pool's lr")

    def state(self) -> dict[str, Any]:
        """Everything that changes, as tensors and plain values."""
        return {"epoch": self.epoch, "network": self.network.state_dict(), "heads": self.heads.state_dict(),
                "second": self.second.state_dict(), "updates": self.updates.state_dict(),
                "loss": {**dict(self.loss.named_parameters()), **dict(self.loss.named_buffers())}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.epoch = state["epoch"]
        for name in ("network", "heads", "second"):
            getattr(self, name).load_state_dict(state[name])
        self.updates.load_state_dict(state["updates"])
        for name, value in {**dict(self.loss.named_parameters()), **dict(self.loss.named_buffers())}.items():
            value.data.copy_(state["loss"][name])  # its queue is not part of a state_dict


def _heads(pool: SelfSupervised, width: int) -> nn.ModuleDict:
    hidden, dim, kind = pool.hidden, pool.dim, pool.loss
    made: dict[str, nn.Module] = {}
    if kind == "moco_v2":
        made["project"] = heads.MoCoProjectionHead(width, hidden, dim)
    elif kind == "simclr":
        made["project"] = heads.SimCLRProjectionHead(width, hidden, dim)
    elif kind == "byol":
        made = {"project": heads.BYOLProjectionHead(width, hidden, dim),
                "predict": heads.BYOLPredictionHead(dim, hidden, dim)}
    elif kind == "dino":
        with warnings.catch_warnings(action="ignore"):  # torch has a newer weight normalization than lightly uses
            made["project"] = heads.DINOProjectionHead(width, hidden, min(256, dim), pool.prototypes, batch_norm=True)
    elif kind == "swav":
        made = {"project": heads.SwaVProjectionHead(width, hidden, dim),
                "prototypes": heads.SwaVPrototypes(dim, pool.prototypes)}
    elif kind == "barlow_twins":
        made["project"] = heads.BarlowTwinsProjectionHead(width, hidden, dim)
    else:
        made["project"] = heads.VICRegProjectionHead(width, hidden, dim)
    return nn.ModuleDict(made)


def _loss(pool: SelfSupervised) -> nn.Module:
    made: dict[str, Any] = {
        "moco_v2": lambda: losses.NTXentLoss(pool.temperature, memory_bank_size=(pool.queue, pool.dim)),
        "simclr": lambda: losses.NTXentLoss(pool.temperature),
        "byol": losses.NegativeCosineSimilarity,
        "dino": lambda: losses.DINOLoss(pool.prototypes, warmup_teacher_temp_epochs=max(1, pool.epochs // 6)),
        "swav": lambda: losses.SwaVLoss(pool.temperature),
        "barlow_twins": losses.BarlowTwinsLoss,
        "vicreg": losses.VICRegLoss}
    found: nn.Module = made[pool.loss]()
    return found


_BANKS: WeakKeyDictionary[nn.Module, Images] = WeakKeyDictionary()  # what a network is being trained on


@torch.no_grad()
def neighbors(network: nn.Module, held: Images) -> float:
    """Share of held-out images whose nearest neighbors among the network's training images vote for their class."""
    images = _BANKS[network]
    rows = RNG("neighbors").permutation(len(images))[:BANK]
    bank, seen = (nn.functional.normalize(one, dim=1) for one in (features(network, images, rows), features(network, held)))
    votes = nn.functional.one_hot(images.targets[rows].to(bank.device), len(images.classes)).to(bank)
    right = 0
    for some, targets in zip(seen.split(1024), held.targets.split(1024), strict=True):
        near, which = (some @ bank.T).topk(min(NEIGHBORS, len(bank)), 1)
        found = ((near / SHARPNESS).exp()[:, :, None] * votes[which]).sum(1).argmax(1)
        right += int((found == targets.to(found.device)).sum())
    return right / max(1, len(held))
