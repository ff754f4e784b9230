"""The protocol of DC, DSA, DM, CAFE and most later papers."""

from __future__ import annotations

from datastill.protocols._sgd import SGDTraining


class DC(SGDTraining):
    """The evaluation of Zhao et al. 2021, including its quirks; the options cover the variants of later papers.

    A fresh network is trained with SGD and cross-entropy. Quirks kept on purpose: ``epochs`` E means E + 1 passes; after
    epoch index E // 2 + 1 the learning rate is multiplied by 0.1 once and the optimizer is recreated, so its momentum is
    lost. The last weights are scored.

    lr: a learning rate, or "learned": the one that was learned with the set.
    augment: a DSA strategy (leave out ``flip`` for digits): one operation per batch, with parameters for each image; "dsa"
        for all operations; "none". Or one of DC's (``dc_crop_scale_rotate``, for digits; ``dc_crop_noise``): one operation
        for each image.
    epochs: 0 uses the papers' number: 300 without augmentation, 1000 with.
    full_epochs: E when the full data are trained on as an upper bound (ours; the papers' bounds come
        from other recipes).
    """
