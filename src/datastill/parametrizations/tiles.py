"""Several small images are stored in each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from datastill.data import Batch
from datastill.errors import InputError
from datastill.functional.tiles import Order, Shrink, tiled, untiled
from datastill.parametrization import Parametrization
from datastill.rng import RNG

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.task import Task


class Tiles(Parametrization):
    """``factor`` x ``factor`` images are stored in each: tiles, which are enlarged to full images (bilinear) when they are
    decoded. A set of ipc images then has ipc * factor^2 images for students to learn from, at the same storage: the
    multi-formation of IDC (Kim et al. 2022, ICML), also used by IDM (Zhao et al. 2023, CVPR) and DREAM.

    It starts from images made small, of which the method gives factor^2 for each stored one: random real images, none twice,
    as long as there are enough, noise, or chosen ones. order: of the tiles: "rows" (IDC) or "columns" (IDM, factor 2).
    shrink: how images are made small: "nearest" as IDC's code does, or "mean", of the pixels that become one, as IDM's does.
    IDC decodes pixels from 0 to 1, here they are normalized, which is the same as long as the factor divides the images;
    others are refused.
    """

    in_pixels: ClassVar[bool] = True

    factor: int = Field(default=2, ge=1, le=64)
    order: Order = "rows"
    shrink: Shrink = "nearest"

    def check(self, task: Task, ipc: int) -> None:
        height, width = task.real.shape[1:]
        if height % self.factor or width % self.factor:
            fitting = [one for one in range(2, min(height, width) + 1) if height % one == width % one == 0]
            raise InputError(f"tiles: factor {self.factor} does not divide images of {height}x{width} pixels; use "
                             + (f"parametrization.factor={', '.join(map(str, fitting[:6]))}" if fitting else
                                "images of another data.size"))

    @property
    def starts(self) -> int:
        return self.factor**2

    def encode(self, start: Batch, task: Task, rng: RNG) -> dict[str, Tensor]:
        return {"tiles": tiled(start.x.unflatten(0, (-1, self.starts)), self.factor, self.order, self.shrink)}

    def decode(self, parameters: Mapping[str, Tensor], rows: Tensor | None = None) -> Tensor:
        stored, each = parameters["tiles"], self.factor**2
        if rows is None:
            return untiled(stored, self.factor, self.order).flatten(0, 1)
        which, places = rows // each, rows % each
        needed, place = which.unique(return_inverse=True)
        return untiled(stored[needed], self.factor, self.order)[place, places]

    def labels(self, stored: Tensor) -> Tensor:
        return stored.repeat_interleave(self.factor**2, 0)
