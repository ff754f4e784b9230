"""RDED: the most telling crops of real images, put together (Sun et al. 2024, CVPR, "On the Diversity and Realism of
Distilled Dataset")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datastill.late import F, torch

if TYPE_CHECKING:
    from torch import Tensor


def centered(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, h, w) in the middle of larger ones (B, C, H, W) of zeros: of normalized images, the mean color. Of an
    odd remainder the larger part is below and to the right."""
    down, across = size[0] - x.shape[2], size[1] - x.shape[3]
    return F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))


def choose_crops(losses: Tensor, count: int, place: float = 0.0) -> tuple[Tensor, Tensor]:
    """From the teacher's cross-entropy (M, N) of N crops of each of M images: ``count`` images by that of their best crop,
    in this order, and which crop it is, each (count,). The lowest ones at ``place`` 0, the highest at 1, in between those
    that begin at this share of the way. Equal ones go to the lowest index."""
    best, which = losses.min(1)
    first = round(place * max(0, len(best) - count))
    images = best.argsort(stable=True)[first:first + count]
    return images, which[images]


def mosaic(tiles: Tensor, ipc: int, factor: int, size: tuple[int, int]) -> Tensor:
    """``ipc`` images (ipc, C, H, W) of factor x factor tiles each, from ipc * factor^2 tiles (N, C, h, w), the best first.

    Tile k of an image, row by row, is tile k * ipc + i of the N: so every image has one of every rank. Tiles are resized to
    their cell (nearest); if ``factor`` does not divide a side, the first rows and columns of cells are a pixel larger.
    """
    heights, widths = (_cells(side, factor) for side in size)
    rows = []
    for i, height in enumerate(heights):
        cells = [F.interpolate(tiles[(k := i * factor + j) * ipc:(k + 1) * ipc], size=(height, width), mode="nearest")
                 for j, width in enumerate(widths)]
        rows.append(torch.cat(cells, 3))
    return torch.cat(rows, 2)


def _cells(side: int, factor: int) -> list[int]:
    return [side // factor + (number < side % factor) for number in range(factor)]


def shuffle_strips(x: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Images (..., H, W) cut into as many vertical strips as ``columns`` (F,) has entries, which come in that order, then
    likewise into horizontal ones. Strips have width W // F; pixels that remain are left out, as in the authors' code."""
    for order, axis in ((columns, -1), (rows, -2)):
        width = x.shape[axis] // len(order)
        x = torch.cat([x.narrow(axis, number * width, width) for number in order.tolist()], axis)
    return x
