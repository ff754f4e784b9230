"""The protocol of DATM."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from datastill.protocols._sgd import Rate, SGDTraining


class DATM(SGDTraining):
    """The evaluation of Guo et al. 2024: that of MTT, on soft labels if the set has them, in batches of 128.

    The paper reports the best of several evaluations during distillation; the score here is always of the finished set.
    """

    lr: Rate | Literal["learned"] = "learned"
    batch_size: int = Field(default=128, ge=1)
