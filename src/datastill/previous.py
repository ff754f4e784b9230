"""A finished set that another run starts from: more iterations, more classes, more images, other data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datastill import artifact
from datastill.artifact import PIXELS, TENSORS
from datastill.core import Method, Task
from datastill.data.domain import bring, domain_of
from datastill.digest import dump, spec
from datastill.errors import InputError
from datastill.late import no_grad, torch

if TYPE_CHECKING:
    from datastill.distilled import Distilled
    from datastill.synthetic import SyntheticSet


@dataclass(frozen=True)
class Previous:
    """A finished set as another run finds it, its images already in that run's domain.

    first: the image of each class that the run's first one goes on from; above 0 for a part of a run.
    """

    synthetic: SyntheticSet
    first: int = 0

    @no_grad
    def into(self, start: SyntheticSet) -> None:
        """Put it in the place of a start, in place: images by class name and number; a learned learning rate and the logits
        of soft labels where both have them. What it has no image for stays as it is."""
        old = self.synthetic
        pairs = [(old.classes.index(name) * old.ipc + self.first + number, c * start.ipc + number)
                 for c, name in enumerate(start.classes) if name in old.classes
                 for number in range(min(start.ipc, old.ipc - self.first))]
        theirs, mine = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
        values = [(start.images[name], value) for name, value in old.images.items()]
        for target, source in [*values, *([(start.labels, old.labels)] if start.soft and old.soft else [])]:
            target[mine.to(target.device)] = source[theirs.to(source.device)]
        if start.lr is not None and old.lr is not None:
            start.lr.copy_(old.lr)


def origin(folder: Path) -> dict[str, str]:
    """What a card says of the finished set a run started from: its digest, and the checksum of its tensors.

    Raises InputError: none there, an unfinished one, a damaged card.
    """
    card = artifact.read_card(folder)
    return {"digest": str(card["digest"]), "checksum": card["files"][TENSORS]}


def read_previous(folder: Path, method: Method, task: Task, first: int = 0) -> Previous:
    """The finished set in a folder, for a run of this method on this task.

    Raises InputError: missing, unfinished or damaged, or one that cannot be gone on from.
    """
    there = artifact.load(folder).to(task.device)
    _check(there, f"start_from {folder}", method, task)
    old = artifact.restored(there.tensors, there.domain, task.parametrization)
    if odd := [name for name, value in old.images.items() if len(value) != old.stored]:
        raise InputError(f"start_from {folder}: its parameter {odd[0]} has {len(old.images[odd[0]])} rows for {old.stored} "
                         "images, so that it cannot be carried over image by image; start from real images instead")
    if list(old.images) == [PIXELS]:
        old.images[PIXELS].data = bring(old.images[PIXELS].data, there.domain, domain_of(task.real))
    return Previous(old, first)


def _check(there: Distilled, who: str, method: Method, task: Task) -> None:
    """Check that a run can go on from a set. Raises InputError."""
    if (other := there.card["run"]["parametrization"]) != dump(task.parametrization):
        raise InputError(f"{who}: its images are parametrized by {other}, those of the run by {spec(task.parametrization)}; "
                         "both must be the same")
    if (shape := there.domain.shape) != task.real.shape:
        raise InputError(f"{who}: its images are of shape {shape}, those of the run of {task.real.shape}; both must be the "
                         "same (data.size, data.channels)")
    if not {*there.classes} & {*task.real.classes}:
        raise InputError(f"{who}: none of its classes ({_shown(there.classes)}) is one of the run's "
                         f"({_shown(task.real.classes)})")
    pixels = not any(name.startswith(artifact.PARAMETER) for name in there.tensors)
    if not pixels and not there.domain.looks_like(domain_of(task.real)):
        raise InputError(f"{who}: it was made of images normalized or whitened otherwise, and parameters of "
                         f"{spec(task.parametrization)} cannot be brought over; load the run's data as that set's")
    if method.has_soft_labels and "logits" not in there.tensors:
        raise InputError(f"{who}: it has hard labels, the run learns soft ones, which would be those of other images; "
                         "start from a set with soft labels, or give the run hard ones")
    if method.has_soft_labels and there.classes != task.real.classes:
        raise InputError(f"{who}: its soft labels are of other classes ({_shown(there.classes)}) than the run's "
                         f"({_shown(task.real.classes)}); soft labels go on with the same classes alone")


def _shown(classes: tuple[str, ...]) -> str:
    return f"{len(classes)}: {', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''}"
