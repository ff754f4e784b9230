"""Pixels that stay within what real images can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datastill.errors import InputError
from datastill.late import torch
from datastill.task import Task

if TYPE_CHECKING:
    from datastill.synthetic import SyntheticSet


def check_range(task: Task) -> None:
    """Check that there is a range to keep pixels in, where pixels are what is learned. Raises InputError."""
    if task.parametrization.in_pixels and task.real.whitening is not None:
        raise InputError("whitened images have no range to keep pixels in; set method.clamp=false, or data.zca=false")


def keep_in_range(synthetic: SyntheticSet, task: Task) -> None:
    """Clamp what is learned, in place, to normalized pixels of real images (0 to 1 before normalization); if it is not
    pixels, nothing is done."""
    if not task.parametrization.in_pixels:
        return
    with torch.no_grad():
        for pixels in synthetic.images.values():
            mean, std = (torch.tensor(values, device=pixels.device).view(-1, 1, 1)
                         for values in (task.real.mean, task.real.std))
            pixels.copy_(pixels.maximum(-mean / std).minimum((1 - mean) / std))
