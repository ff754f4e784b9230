"""Differentiable Siamese augmentation: DSA (Zhao & Bilen 2021, ICML), as vectorized tensor code with explicit parameters.

One operation is drawn from a strategy string such as ``color_crop_cutout_flip_scale_rotate`` (``STRATEGY``; leave ``flip``
out for digits). *Siamese*: all images of a call share one draw, and two calls with equal streams draw the same, regardless
of the number of images. *Grouped*: images of one group (for example a class) share a draw. *Per image*: one operation per
call, with parameters drawn for each image, as in the evaluation protocols.

``idc_`` before a strategy (``idc_color_crop_cutout``) is the composition of IDC (Kim et al. 2022, ICML): mirroring and color
always, then one of the others, drawn, and cutting out last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import AfterValidator

from datastill.compute import needs_deterministic, send
from datastill.late import F, torch
from datastill.rng import RNG

if TYPE_CHECKING:
    from torch import Tensor

STRATEGY = "color_crop_cutout_flip_scale_rotate"
IN_TURN = "idc_"  # before a strategy whose operations follow each other
FIRST, LAST = ("flip", "color"), ("cutout",)  # those that such a strategy always applies, before and after the drawn one
SCALE = 1.2  # scaling factor in [1/1.2, 1.2]
ROTATE = 15.0  # degrees
CROP = 0.125  # maximum shift as a fraction of the side
CUTOUT = 0.5  # side of the square as a fraction of the image side


class Parameters(NamedTuple):
    """Parameters of the operations, one value per image, each (B,). ``u_*`` are in [0, 1); shifts and centers are whole."""

    flip: Tensor  # mirrored if < 0.5
    scale_x: Tensor  # factor along columns; > 1 shrinks the content
    scale_y: Tensor
    angle: Tensor  # radians
    crop_row: Tensor  # y[r, c] = x[r + crop_row, c + crop_col]
    crop_col: Tensor
    cutout_row: Tensor  # center of the square
    cutout_col: Tensor
    u_brightness: Tensor
    u_saturation: Tensor
    u_contrast: Tensor


def augment(x: Tensor, rng: RNG, strategy: str = STRATEGY) -> Tensor:
    """Siamese: one operation with one set of parameters for all of ``x`` (B, C, H, W), determined by ``rng`` only."""
    return augment_groups(x, torch.zeros(len(x), dtype=torch.long, device=x.device), 1, rng, strategy)


def augment_groups(x: Tensor, group: Tensor, groups: int, rng: RNG, strategy: str = STRATEGY) -> Tensor:
    """One draw per group: ``group`` (B,) int64 in 0 .. groups-1 is the draw to use for each image of ``x`` (B, C, H, W)."""
    before, operations, after = _arranged(strategy)
    chosen = (rng("operation").uniform(groups) * len(operations)).long()
    parameters = _on(x, draw(groups, x.shape[2:], rng("parameters")))
    for name in before:
        x = OPERATIONS[name](x, _of(parameters, group))
    if operations:
        x = _apply_each(x, [operations[i] for i in chosen.tolist()], parameters, group)
    for name in after:
        x = OPERATIONS[name](x, _of(parameters, group))
    return x


def augment_classes(x: Tensor, y: Tensor, rng: RNG, strategy: str) -> Tensor:
    """One draw per class, where the class is the largest entry of the label in ``y`` (B, K). Equal streams draw the same for
    another batch, as needed to match real and synthetic images. Returns ``x`` itself for the strategy "none"."""
    return x if strategy == "none" else augment_groups(x, y.argmax(1), y.shape[1], rng, strategy)


def augment_images(x: Tensor, rng: RNG, strategy: str = STRATEGY) -> Tensor:
    """One operation for the call, with parameters drawn separately for each image of ``x`` (B, C, H, W)."""
    before, operations, after = _arranged(strategy)
    parameters = _on(x, draw(len(x), x.shape[2:], rng("parameters")))
    drawn = operations[int(rng("operation").uniform(1).item() * len(operations))] if operations else None
    for name in (*before, *([] if drawn is None else [drawn]), *after):
        x = OPERATIONS[name](x, parameters)
    return x


def shift_and_flip(x: Tensor, rng: RNG, mirror: bool = True) -> Tensor:
    """The usual augmentation of classifiers, each image of ``x`` (B, C, H, W) with its own draw: shifted by up to an eighth
    of a side (4 of 32 pixels) with zeros behind, and mirrored half of the time."""
    parameters = _on(x, draw(len(x), x.shape[2:], rng))
    return crop(flip(x, parameters) if mirror else x, parameters)


def split_strategy(strategy: str) -> list[str]:
    """``"crop_flip"`` and ``"idc_crop_flip"`` -> ``["crop", "flip"]``; "dsa" means all. Raises ValueError for an unknown
    operation or none."""
    bare = strategy.removeprefix(IN_TURN)
    operations = (STRATEGY if bare == "dsa" else bare).split("_")
    if unknown := [name for name in operations if name not in OPERATIONS]:
        raise ValueError(f"unknown augmentation {unknown[0]!r} in {strategy!r}; expected one or more of "
                         f"{', '.join(OPERATIONS)} joined by _, {IN_TURN} before them for all in turn, or dsa, or none")
    return operations


def _arranged(strategy: str) -> tuple[list[str], list[str], list[str]]:
    """The operations that come first, those of which one is drawn, and those that come last."""
    operations = split_strategy(strategy)
    if not strategy.startswith(IN_TURN):
        return [], operations, []
    return ([name for name in FIRST if name in operations], [name for name in operations if name not in FIRST + LAST],
            [name for name in LAST if name in operations])


def _of(parameters: Parameters, which: Tensor) -> Parameters:
    """The parameters of each image from those of its group."""
    return Parameters(*(p[which] for p in parameters))


def _known(strategy: str) -> str:
    if strategy != "none":
        split_strategy(strategy)
    return strategy


Strategy = Annotated[str, AfterValidator(_known)]  # field type for descriptions: checked when they are read


def draw(n: int, size: torch.Size | tuple[int, ...], rng: RNG) -> Parameters:
    """Parameters for ``n`` images of (H, W), float32 on the CPU; drawn for every operation, used or not."""
    u = rng.uniform(n, len(Parameters._fields)).unbind(1)
    height, width = size
    shift_row, shift_col = _rounded(CROP * height), _rounded(CROP * width)
    odd_row, odd_col = (_rounded(CUTOUT * side) % 2 for side in (height, width))
    return Parameters(
        flip=u[0], scale_x=_between(u[1], 1 / SCALE, SCALE), scale_y=_between(u[2], 1 / SCALE, SCALE),
        angle=torch.deg2rad(_between(u[3], -ROTATE, ROTATE)),
        crop_row=(u[4] * (2 * shift_row + 1)).floor() - shift_row,
        crop_col=(u[5] * (2 * shift_col + 1)).floor() - shift_col,
        cutout_row=(u[6] * (height + 1 - odd_row)).floor(), cutout_col=(u[7] * (width + 1 - odd_col)).floor(),
        u_brightness=u[8], u_saturation=u[9], u_contrast=u[10])


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _rounded(value: float) -> int:
    return int(value + 0.5)


def _on(x: Tensor, parameters: Parameters) -> Parameters:
    """The parameters with the device and dtype of ``x``, sent in one copy."""
    return Parameters(*send(torch.stack(parameters).to(x.dtype), x.device))


def _apply_each(x: Tensor, operations: list[str], parameters: Parameters, group: Tensor) -> Tensor:
    """Apply to each image the operation of its group, whose parameters are on its device; images with the same operation are
    processed together."""
    names = sorted(set(operations))
    if len(names) == 1:
        return OPERATIONS[names[0]](x, _of(parameters, group))
    number = send(torch.tensor([names.index(name) for name in operations]), x.device)[group]
    order, counts = number.argsort(stable=True), torch.bincount(number, minlength=len(names)).tolist()
    parts = [OPERATIONS[name](x[rows], _of(parameters, group[rows]))
             for name, rows in zip(names, order.split(counts), strict=True) if len(rows)]
    return torch.cat(parts)[order.argsort()]


# --- the operations: x (B, C, H, W) and Parameters of (B,) -> (B, C, H, W) ---------------------------------------------


def flip(x: Tensor, p: Parameters) -> Tensor:
    """Mirror left to right if the draw is below one half."""
    return torch.where(_each(p.flip < 0.5), x.flip(3), x)


def scale(x: Tensor, p: Parameters) -> Tensor:
    """Sample at stretched coordinates, bilinear, zeros outside."""
    zero = torch.zeros_like(p.scale_x)
    return _warp(x, [p.scale_x, zero, zero, zero, p.scale_y, zero])


def rotate(x: Tensor, p: Parameters) -> Tensor:
    """Sample at rotated coordinates, bilinear, zeros outside."""
    cos, sin, zero = p.angle.cos(), p.angle.sin(), torch.zeros_like(p.angle)
    return _warp(x, [cos, -sin, zero, sin, cos, zero])


def crop(x: Tensor, p: Parameters) -> Tensor:
    """Shift by whole pixels, filled with zeros."""
    one, zero = torch.ones_like(p.crop_row), torch.zeros_like(p.crop_row)
    shift_x, shift_y = 2 * p.crop_col / x.shape[3], 2 * p.crop_row / x.shape[2]
    return _warp(x, [one, zero, shift_x, zero, one, shift_y], mode="nearest")  # whole shifts: nearest is exact


def cutout(x: Tensor, p: Parameters) -> Tensor:
    """A square of zeros around the drawn center, clipped at the borders."""
    rows, cols = (_covered(center, side) for center, side in zip((p.cutout_row, p.cutout_col), x.shape[2:], strict=True))
    return x * ~(rows[:, None, :, None] & cols[:, None, None, :])


def brightness(x: Tensor, p: Parameters) -> Tensor:
    """Add u - 0.5."""
    return x + _each(p.u_brightness - 0.5)


def saturation(x: Tensor, p: Parameters) -> Tensor:
    """Scale the deviation of each pixel from its mean over channels by 2u."""
    mean = x.mean(1, keepdim=True)
    return (x - mean) * _each(2 * p.u_saturation) + mean


def contrast(x: Tensor, p: Parameters) -> Tensor:
    """Scale the deviation of each image from its mean by u + 0.5."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * _each(p.u_contrast + 0.5) + mean


def color(x: Tensor, p: Parameters) -> Tensor:
    """Brightness, then saturation, then contrast."""
    return contrast(saturation(brightness(x, p), p), p)


OPERATIONS: dict[str, Callable[[Tensor, Parameters], Tensor]] = {
    "color": color, "crop": crop, "cutout": cutout, "flip": flip, "scale": scale, "rotate": rotate}


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _covered(center: Tensor, side: int) -> Tensor:
    """(B, side) bool: which rows (or columns) the square around ``center`` covers."""
    length = _rounded(CUTOUT * side)
    position = torch.arange(side, device=center.device)[None] - center[:, None] + length // 2
    return (position >= 0) & (position < length)


def _warp(x: Tensor, theta: list[Tensor], mode: str = "bilinear") -> Tensor:
    matrix = torch.stack(theta, 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    if needs_deterministic(x.device):
        return _sampled(x, grid, mode)
    return F.grid_sample(x, grid, mode=mode, padding_mode="zeros", align_corners=False)


def _sampled(x: Tensor, grid: Tensor, mode: str) -> Tensor:
    """``grid_sample`` up to rounding, by plain indexing: its backward has no deterministic kernel on a GPU."""
    height, width = x.shape[2:]
    column, row = (((grid[..., axis] + 1) * side - 1) / 2 for axis, side in ((0, width), (1, height)))
    if mode == "nearest":
        return _taken(x, row.round(), column.round())
    top, left = row.floor(), column.floor()
    down, right = row - top, column - left
    up, left_share = 1 - down, 1 - right
    corners = ((0, 0, up * left_share), (0, 1, up * right), (1, 0, down * left_share), (1, 1, down * right))
    return torch.stack([_taken(x, top + i, left + j) * share[:, None] for i, j, share in corners]).sum(0)


def _taken(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """The pixels of x (B, C, H, W) at these integer positions, each (B, H, W); 0 outside."""
    height, width = x.shape[2:]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
    found = x.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, x.shape[1], -1))
    return found.view(x.shape).masked_fill(~inside[:, None], 0.0)
