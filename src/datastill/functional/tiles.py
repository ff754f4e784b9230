"""Several images stored in one: tiles that are enlarged to full images, and the inverse."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

from datastill.arguments import whole
from datastill.errors import InputError
from datastill.functional.distances import check_images
from datastill.late import F, torch
from datastill.tables import shown

if TYPE_CHECKING:
    from torch import Tensor

Order = Literal["rows", "columns"]
Shrink = Literal["nearest", "mean"]


def untiled(x: Tensor, factor: int, order: Order = "rows", pad: float = 0.5) -> Tensor:
    """The ``factor``^2 tiles of each image (N, C, H, W), each enlarged to (H, W), bilinear: (N, factor^2, C, H, W).

    order: "rows": left to right, then down (Kim et al. 2022, IDC, ICML); "columns": down, then to the right (Zhao et al.
    2023, IDM, CVPR, for factor 2). If a side is not divisible, the image is padded to the right and below with ``pad`` (0.5
    in IDC, whose pixels are from 0 to 1). The papers' code puts all images of the first tile before those of the second:
    ``untiled(x, f).transpose(0, 1).flatten(0, 1)``. Raises InputError.

    >>> untiled(torch.arange(4.0).view(1, 1, 2, 2), 2)[0, :, 0, 0, 0]
    tensor([0., 1., 2., 3.])
    """
    check_images(x, "untiled")
    height, width = x.shape[2:]
    _check_factor(factor, min(height, width))
    _check_choice("order", order, Order)
    high, wide = math.ceil(height / factor), math.ceil(width / factor)
    if (factor * high, factor * wide) != (height, width):
        x = F.pad(x, (0, factor * wide - width, 0, factor * high - height), value=pad)
    tiles = x.unflatten(3, (factor, wide)).unflatten(2, (factor, high))  # (N, C, rows, h, columns, w)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5) if order == "rows" else tiles.permute(0, 4, 2, 1, 3, 5)
    tiles = tiles.flatten(1, 2)
    return F.interpolate(tiles.flatten(0, 1), (height, width), mode="bilinear").unflatten(0, (len(x), -1))


def tiled(x: Tensor, factor: int, order: Order = "rows", shrink: Shrink = "nearest") -> Tensor:
    """The inverse, for images that the factor divides: ``factor``^2 images each (N, factor^2, C, H, W) made small and put
    together, (N, C, H, W). shrink: "nearest", as IDC's code does, or "mean", of the pixels that become one, as IDM's
    does. Raises InputError.

    >>> tiled(torch.arange(4.0).view(1, 4, 1, 1, 1).expand(1, 4, 1, 2, 2), 2)[0, 0]
    tensor([[0., 1.],
            [2., 3.]])
    """
    factor = whole("factor", factor, 1)
    _check_choice("order", order, Order)
    _check_choice("shrink", shrink, Shrink)
    if not isinstance(x, torch.Tensor) or x.dim() != 5 or x.shape[1] != factor**2:
        raise InputError(f"tiled: expected {factor**2} images each (N, {factor**2}, C, H, W), got "
                         f"{tuple(getattr(x, 'shape', ()))}")
    height, width = x.shape[3:]
    _check_factor(factor, min(height, width))
    if height % factor or width % factor:
        raise InputError(f"tiled: {factor} does not divide images of {height}x{width} pixels")
    flat = x.flatten(0, 1)
    small = F.interpolate(flat, (height // factor, width // factor), mode="nearest") if shrink == "nearest" else \
        F.avg_pool2d(flat, factor)
    grid = small.unflatten(0, (len(x), factor, factor))  # (N, rows, columns, C, h, w)
    grid = grid if order == "rows" else grid.transpose(1, 2)
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _check_choice(name: str, value: object, choices: Any) -> None:
    if value not in get_args(choices):
        raise InputError(f"{name}: expected {' or '.join(get_args(choices))}, got {shown(value)}")


def _check_factor(factor: int, side: int) -> None:
    if whole("factor", factor, 1) > side:
        raise InputError(f"factor {factor} cuts images of {side} pixels into nothing; expected 1 to {side}")
