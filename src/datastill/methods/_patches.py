"""Real images made of the crops that a teacher recognizes best: RDED's sets, and starts for recovery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from datastill.description import Description
from datastill.digest import digest
from datastill.errors import InputError, RunError
from datastill.files import reason
from datastill.functional.crops import AREA, crop, draw_boxes
from datastill.functional.rded import centered, choose_crops, mosaic
from datastill.late import F, no_grad, torch
from datastill.nets import passes
from datastill.rng import RNG
from datastill.store import once
from datastill.task import Task, filled
from datastill.teachers import Pool, Teacher

if TYPE_CHECKING:
    from torch import Tensor


class Patches(Description):
    """Images of factor x factor crops of real images of their class (RDED, Sun et al. 2024).

    Of each class ``images`` random ones are looked at, ``crops`` random crops of each (8 to 100 % of its area, square, 1 /
    ``factor`` of a side; cut out of the files, where each image has its own); a crop is put in the middle of an image of the
    mean color and shown to the teacher. Of every image the crop with the lowest cross-entropy stays, of these the lowest at
    ``place`` 0; at 0.5 those in the middle.
    """

    images: int = Field(default=300, ge=1)
    crops: int = Field(default=5, ge=1, le=10_000)
    factor: int = Field(default=1, ge=1, le=16)
    place: float = Field(default=0.0, ge=0.0, le=1.0)


def check_patches(patches: Patches, task: Task, ipc: int) -> None:
    """Check that there are enough images for so many of each class, before any work. Raises InputError."""
    wanted, side = ipc * patches.factor**2, min(task.real.shape[1:])
    if patches.factor > side:
        raise InputError(f"factor {patches.factor} cuts images of {side} pixels into nothing; use {side} or less")
    smallest = min(map(len, task.real.of_class))
    if min(patches.images, smallest) < wanted:
        what = f"images is {patches.images}" if patches.images < wanted else f"the smallest class has {smallest}"
        raise InputError(f"{ipc} images of {patches.factor}x{patches.factor} crops take {wanted} of each class, one crop of "
                         f"each, but {what}; use a smaller ipc or factor" +
                         (f", or images={wanted}" if smallest >= wanted else ""))


def mosaics(patches: Patches, task: Task, pool: Pool, ipc: int, numbers: range, rng: RNG) -> Tensor:
    """Of ``ipc`` such images of each of the task's classes those with these numbers, in class order (N, C, H, W). All are
    made once, then only these are read from ``root/patches``. Raises RunError if they cannot be stored."""
    def some(whole: Any) -> Any:
        each = whole.reshape(len(task.here), ipc, *task.real.shape)[:, numbers.start:numbers.stop]
        return each.reshape(-1, *task.real.shape)

    def made() -> Tensor:
        teachers, found = list(task.teachers(pool)), []
        for number, c in enumerate(task.here):
            found.append(_of_class(patches, task, teachers, ipc, c, rng(c)))
            task.progress.tell(number + 1, len(task.here), "choosing crops")
        return torch.cat(found)

    def write(path: Path) -> None:
        with path.open("wb") as target:
            np.save(target, made().cpu().numpy())

    if task.dry_run:
        found: Tensor = some(made())
        return found
    teachers = pool.digest(task.real.fingerprint, *pool.identity(task.data_root))
    name = digest(patches, task.real.fingerprint, teachers, str(ipc), *map(str, rng.path),
                  *([] if task.some is None else [str(task.some)]))
    path = task.root / "patches" / f"{name}.npy"
    try:
        return torch.from_numpy(np.array(some(np.load(once(path, write), mmap_mode="r")))).to(task.device)
    except OSError as error:
        raise RunError(f"chosen crops cannot be stored in {path}: {reason(error)}; remove what is in the way, or choose "
                       "another --root") from error


def _of_class(patches: Patches, task: Task, teachers: list[Teacher], ipc: int, c: int, rng: RNG) -> Tensor:
    rows = task.real.draw(patches.images, rng("images"), of_class=c)
    size: tuple[int, int] = task.real.shape[1:]
    small = (size[0] // patches.factor, size[1] // patches.factor)
    boxes = draw_boxes(rng("crops"), len(rows) * patches.crops, size, ratio=(1.0, 1.0)).view(len(rows), patches.crops, 4)
    crops, losses, sharp = [], [], task.real.have_originals
    for number, (some, theirs) in enumerate(zip(rows.split(64), boxes.split(64), strict=True)):
        if sharp:
            several = some.repeat_interleave(patches.crops)
            crops.append(task.real.crops(several, rng("crops", number), AREA, (1.0, 1.0), small))
        else:
            x = task.real.batch(some).x.repeat_interleave(patches.crops, 0)
            crops.append(crop(x, theirs.flatten(0, 1), small))
        losses.append(torch.stack([_losses(teacher, centered(crops[-1], size), c) for teacher in teachers]).mean(0))
    count = ipc * patches.factor**2
    table = torch.cat(losses).view(len(rows), patches.crops).cpu()
    images, which = choose_crops(table, min(count, len(rows)), patches.place)
    chosen = torch.cat(crops).unflatten(0, (len(rows), patches.crops))[images, which]
    return mosaic(filled(chosen, count), ipc, patches.factor, size)


@no_grad
def _losses(teacher: Teacher, x: Tensor, c: int) -> Tensor:
    """Cross-entropy (B,) of a teacher for images of class ``c`` of the run, over all classes the teacher knows."""
    seen, target = teacher.see(x), c if teacher.outputs is None else teacher.outputs[c]
    how = passes(teacher.network, seen, "features")
    logits = torch.cat([how.logits(part) for (part,) in how.split(seen)])
    return F.cross_entropy(logits, torch.full((len(x),), target, device=x.device), reduction="none")
