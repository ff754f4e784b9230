"""How a batch of images is shown in training, with everything drawn at hand: it can be stored and shown again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from datastill.functional.crops import crop, flip
from datastill.functional.mixing import Mix, mixed
from datastill.late import F, torch

if TYPE_CHECKING:
    from torch import Tensor


class View(NamedTuple):
    """What happens to a batch, in this order; None: nothing.

    strips: (B, 2F) order of the vertical strips of each image, then of the horizontal ones. boxes: (B, 4) top, left, height
    and width of what is cut out and resized; beyond the image are zeros. flips: (B,) which are mirrored. mix: of images
    with each other.
    """

    strips: Tensor | None = None
    boxes: Tensor | None = None
    flips: Tensor | None = None
    mix: Mix | None = None


def shown(x: Tensor, view: View) -> Tensor:
    """The images (B, C, H, W) of a batch as this view shows them."""
    size = (x.shape[2], x.shape[3])
    if view.strips is not None:
        columns, rows = view.strips.to(x.device).long().chunk(2, 1)
        x = _in_order(_in_order(x, columns, 3), rows, 2)
    if view.boxes is not None:
        beyond = _beyond(view.boxes, (x.shape[2], x.shape[3]))
        boxes = view.boxes + torch.tensor([beyond, beyond, 0, 0]) if beyond else view.boxes
        x = crop(F.pad(x, (beyond,) * 4) if beyond else x, boxes, size)
    elif (x.shape[2], x.shape[3]) != size:
        x = F.interpolate(x, size, mode="bilinear")
    if view.flips is not None:
        x = flip(x, view.flips)
    return x if view.mix is None else mixed(x, view.mix)


def _beyond(boxes: Tensor, size: tuple[int, int]) -> int:
    """How many pixels boxes reach beyond images at most."""
    top, left, high, wide = boxes.unbind(1)
    return max(0, int(-top.min()), int(-left.min()), int((top + high).max()) - size[0], int((left + wide).max()) - size[1])


def _in_order(x: Tensor, order: Tensor, axis: int) -> Tensor:
    """Images (B, C, H, W) with their strips along an axis in an order (B, F) each; what F does not divide is left out."""
    width = x.shape[axis] // order.shape[1]
    places = (order[:, :, None] * width + torch.arange(width, device=x.device)).flatten(1)
    shape = [len(x), 1, 1, 1]
    shape[axis] = places.shape[1]
    wanted = [*x.shape]
    wanted[axis] = places.shape[1]
    return x.gather(axis, places.view(shape).expand(wanted))
