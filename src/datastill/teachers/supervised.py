"""Teachers trained as in CLoM."""

from __future__ import annotations

from datastill.teachers._trained import Trained


class Supervised(Trained):
    """Networks trained on labeled images with the recipe of CLoM (Lu et al. 2023): SGD, learning rate 0.01 divided by 10
    after a third and two thirds of 150 epochs, momentum 0.9, weight decay 5e-3, batches of 256, no augmentation."""
