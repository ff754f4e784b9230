"""What networks of several architectures see alike in a set, along its run and in real images, by activation maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datastill import artifact
from datastill.digest import spec
from datastill.errors import InputError
from datastill.functional.invariance import map_variance, masks
from datastill.late import no_grad, torch
from datastill.progress import Progress
from datastill.rng import RNG
from datastill.run import Run
from datastill.task import Task
from datastill.teachers import Context, Pool, Teacher, Teachers
from datastill.teachers._maps import check_maps, look

if TYPE_CHECKING:
    from torch import Tensor

THRESHOLDS = (0.3, 0.5, 0.7)


@dataclass(frozen=True, eq=False)
class Seen:
    """Images with the maps of M networks: what they are, maps (M, B, H, W) from 0 to 1, labels (B,), pixels (B, H, W, C)
    uint8."""

    name: str
    maps: Tensor
    labels: np.ndarray
    view: Tensor

    def of(self, networks: Sequence[int], threshold: float) -> dict[str, float]:
        """Of some of the networks, at least two: ``overlap``, where all see the class as a share of where any does,
        ``common``, the same over images in which all see something, ``empty``, the share of maps in which nothing is seen,
        and ``meta`` and ``heterogeneous``, shares of the area (see ``functional.invariance.Masks``); ``variance`` of the
        maps."""
        some = self.maps[list(networks)]
        found = masks(some, threshold)
        return {"overlap": found.overlap, "common": found.common, "empty": found.empty_share,
                "meta": found.meta_share, "heterogeneous": found.heterogeneous_share,
                "variance": float(map_variance(some))}


@dataclass(frozen=True, eq=False)
class MetaFeatures:
    """What an analysis found: names of the networks, which of them the run had seen, real images, snapshots by iteration."""

    networks: tuple[str, ...]
    known: tuple[bool, ...]
    classes: tuple[str, ...]
    real: Seen
    run: dict[int, Seen] = field(default_factory=dict)

    @property
    def shown(self) -> dict[str, Seen]:
        """What is compared: real images, the start and the end of the run."""
        first, last = min(self.run), max(self.run)
        ends = {"start": self.run[first], "end": self.run[last]} if last > first else {"set": self.run[last]}
        return {"real images": self.real, **ends}

    @property
    def groups(self) -> dict[str, list[int]]:
        """The networks that the run had seen, those it had not, and all; those of fewer than two are left out."""
        seen = [number for number, known in enumerate(self.known) if known]
        unseen = [number for number, known in enumerate(self.known) if not known]
        parts = {"seen": seen, "unseen": unseen}
        return {**{name: some for name, some in parts.items() if 1 < len(some) < len(self.known)},
                "all": list(range(len(self.known)))}

    def pairs(self, some: Seen, threshold: float = 0.5) -> np.ndarray:
        """Overlap of the maps of every two networks, (M, M); 1 on the diagonal."""
        count = len(self.networks)
        found = np.eye(count)
        for a, b in combinations(range(count), 2):
            found[a, b] = found[b, a] = some.of([a, b], threshold)["overlap"]
        return found


def check_networks(pool: Pool, context: Context) -> None:
    """Check that networks of a pool can be compared by their maps, before any are trained. Raises InputError."""
    pool.check(context, {"class_logits"})
    if len({*pool.networks}) < 2:
        raise InputError("what networks see alike takes at least two architectures, the pool has "
                         f"{', '.join(sorted({*map(spec, pool.networks)}))}; give others, as in "
                         "pool.networks=convnet,resnet18,vit")
    check_maps(pool, context)


@no_grad
def maps_of(teacher: Teacher, x: Tensor, y: Tensor) -> Tensor:
    """Normalized maps (B, H, W) of where a teacher sees the classes y (B,) of the run in its images (B, C, H, W), on the
    CPU."""
    size = teacher.chunk(x)
    return torch.cat([look(teacher, part, classes).maps.cpu()
                      for part, classes in zip(x.split(size), y.split(size), strict=True)])


def of_run(folder: Path, run: Run, task: Task, teachers: Teachers, *, count: int = 200,
           progress: Progress = Progress()) -> MetaFeatures:
    """What the networks of a pool see in every snapshot of a finished run, and in ``count`` random real images (0: all).
    Raises InputError: no snapshots, a damaged one, networks of other classes."""
    there = artifact.read_snapshots(folder)
    rows = RNG("meta features").permutation(len(task.real))[:count or len(task.real)].sort().values
    members, total = list(teachers), len(there) + 1
    real = task.real.batch(rows)
    found = {}
    progress.tell(0, total, "real images")
    of_real = Seen("real images", torch.stack([maps_of(one, real.x, real.y.argmax(1)) for one in members]),
                   task.real.targets[rows].cpu().numpy(), task.real.raw(rows).permute(0, 2, 3, 1).cpu())
    for number, (iteration, tensors) in enumerate(there.items()):
        progress.tell(number + 1, total, f"iteration {iteration}")
        x, y = tensors["images"].to(task.device), tensors["labels"].to(task.device).argmax(1)
        maps = torch.stack([maps_of(one, x, y) for one in members])
        found[iteration] = Seen(f"iteration {iteration}", maps, y.cpu().numpy(), tensors["view"])
    progress.tell(total, total)
    return MetaFeatures(tuple(one.name for one in members), tuple(_known(run, members)), task.real.classes, of_real, found)


def _known(run: Run, members: Sequence[Teacher]) -> list[bool]:
    """Whether a run had networks of the architecture of each teacher."""
    had = run.architectures()
    return [str(one.facts.get("network", "")) in had for one in members]


def summary(found: MetaFeatures) -> list[Mapping[str, str | float]]:
    """A row for each group of networks, threshold, and thing compared."""
    return [{"networks": group, "threshold": threshold, "of": name, **some.of(networks, threshold)}
            for group, networks in found.groups.items() for threshold in THRESHOLDS for name, some in found.shown.items()]
