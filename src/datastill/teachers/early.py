"""Networks early in their training, which tell easy images from hard ones."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from datastill.teachers._trained import Trained


class Early(Trained):
    """Networks trained for a short time at a constant learning rate, on all training images, stored after every epoch.

    Under such networks the gradient norm, the error and the mistakes of an image tell how hard it is (Paul et al. 2021);
    after long training nearly all of them are small. Ten networks of five epochs are ours, and so is the recipe, which is
    otherwise that of "supervised": SGD, learning rate 0.01, momentum 0.9, weight decay 5e-3, batches of 256.
    """

    epochs: int = Field(default=5, ge=0, le=100_000)
    drops: tuple[float, ...] = ()
    snapshots: tuple[int, ...] | Literal["every"] = "every"
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
