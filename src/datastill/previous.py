"""A finished set that another run starts from: more iterations, more classes, more images, other data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datastill import artifact
from datastill.artifact import PIXELS, TENSORS
from datastill.core import Method
from datastill.data.domain import bring, domain_of
from datastill.description import load
from datastill.digest import digest, dump, spec
from datastill.errors import InputError
from datastill.late import no_grad, torch
from datastill.parametrization import PARAMETRIZATION, Parametrization
from datastill.tables import difference
from datastill.task import Task

if TYPE_CHECKING:
    from datastill.distilled import Distilled
    from datastill.synthetic import SyntheticSet


APART = 0.01  # standard deviations between the mean pixels of images that are decoded again, elsewhere too


@dataclass(frozen=True)
class Previous:
    """A finished set as another run uses it, with its images already in that run's domain.

    first: the image of each class that the run's first one continues from; above 0 for a part of a run.
    """

    synthetic: SyntheticSet
    first: int = 0

    @no_grad
    def into(self, start: SyntheticSet) -> None:
        """Copy it into an initial set, in place: images by class name and number; a learned learning rate and the logits of
        soft labels if both have them. Images it does not have stay as they are."""
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
    """What a card records about the finished set a run started from: its digest, and the checksum of its tensors.

    Raises InputError: a missing or unfinished set, a damaged card.
    """
    card = artifact.read_card(folder)
    return {"digest": str(card["digest"]), "checksum": card["files"][TENSORS]}


def read_previous(folder: Path, method: Method, task: Task, first: int = 0) -> Previous:
    """The finished set in a folder, for a run of this method on this task.

    Raises InputError: missing, unfinished or damaged, or one that the run cannot continue from.
    """
    there = artifact.load(folder).to(task.device)
    _check(there, f"start_from {folder}", method, task)
    old = artifact.restored(there.tensors, there.domain, task.codec)
    if odd := [name for name, value in old.images.items() if len(value) != old.stored]:
        raise InputError(f"start_from {folder}: its parameter {odd[0]} has {len(old.images[odd[0]])} rows for {old.stored} "
                         "images, so it cannot be copied image by image; start from real images instead")
    if list(old.images) != [PIXELS]:
        _check_decoded(there, old, f"start_from {folder}")
    else:
        old.images[PIXELS].data = bring(old.images[PIXELS].data, there.domain, domain_of(task.real))
    return Previous(old, first)


@no_grad
def _check_decoded(there: Distilled, old: SyntheticSet, who: str) -> None:
    """Check that parameters still decode to the images of their set: a generator's code may have changed. Raises
    InputError."""
    found = old.decode()
    if found.shape != there.x.shape or not float((found - there.x).abs().mean()) <= APART:
        raise InputError(f"{who}: its parameters now decode to other images than those of the set; what decodes them was "
                         "changed since (the code of a generator or parametrization): restore it, or start from real images")


def _check(there: Distilled, who: str, method: Method, task: Task) -> None:
    """Check that a run can continue from a set. Raises InputError."""
    other, mine = there.card["run"]["parametrization"], dump(task.parametrization)
    if digest(load(Parametrization, other)) != digest(task.parametrization):  # type: ignore[type-abstract]
        how = f"its kind is {other['kind']}, now given: {mine['kind']}" if other["kind"] != mine["kind"] else \
            difference(other, mine)
        raise InputError(f"{who}: its images are parametrized in another way ({how}); both must be the same")
    known = there.card.get("prepared", {}).get(PARAMETRIZATION, {}).get("generator", "")
    if known != (ours := task.parametrization.origin(task)):
        raise InputError(f"{who}: its parameters are decoded by {known or 'nothing else'}, the run's by "
                         f"{ours or 'nothing else'}, so they would give other images; load the run's data the way that "
                         "set's was, and take its generator")
    if (shape := there.domain.shape) != task.real.shape:
        raise InputError(f"{who}: its images have shape {shape}, the run's have {task.real.shape}; both must be the same "
                         "(data.size, data.channels)")
    if not {*there.classes} & {*task.real.classes}:
        raise InputError(f"{who}: none of its classes ({_shown(there.classes)}) is one of the run's "
                         f"({_shown(task.real.classes)})")
    pixels = not any(name.startswith(artifact.PARAMETER) for name in there.tensors)
    if not pixels and not there.domain.looks_like(domain_of(task.real)):
        raise InputError(f"{who}: it was distilled from images with another normalization or whitening, and parameters of "
                         f"{spec(task.parametrization)} cannot be converted; load the run's data the way that set's was")
    if method.has_soft_labels and "logits" not in there.tensors:
        raise InputError(f"{who}: it has hard labels, but the run learns soft ones, which would belong to other images; "
                         "start from a set with soft labels, or give the run hard ones")
    if method.has_soft_labels and there.classes != task.real.classes:
        raise InputError(f"{who}: its soft labels are for other classes ({_shown(there.classes)}) than the run's "
                         f"({_shown(task.real.classes)}); soft labels can only be continued with the same classes")


def _shown(classes: tuple[str, ...]) -> str:
    return f"{len(classes)}: {', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''}"
