"""The protocol of trajectory matching: MTT, FTD, TESLA."""

from __future__ import annotations

from typing import Literal

from datastill.protocols._sgd import Rate, SGDTraining


class MTT(SGDTraining):
    """The evaluation of Cazenavette et al. 2022: that of DC and DSA, at the learning rate that was learned with the set.

    The papers report the best of several evaluations during distillation; the score here is always of the finished set.
    """

    lr: Rate | Literal["learned"] = "learned"
