"""What MetaDD asks of images: that several networks see the same in them. Terms, and the masks to look at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from datastill.arguments import is_number
from datastill.errors import InputError
from datastill.functional.labels import kl
from datastill.late import torch
from datastill.tables import counted, shown

if TYPE_CHECKING:
    from torch import Tensor


def map_variance(maps: Tensor, skip_flat: bool = False) -> Tensor:
    """Variance of activation maps over networks (Zhao et al. 2024, MetaDD, eq. 7 as it must be meant): the mean over images,
    networks and pixels of (C_m - mean_m C_m)^2, a scalar.

    maps: (M, B, H, W) of M networks, normalized (``functional.cam.normalized_maps``). skip_flat: leave out maps without any
    value above 0, which agree with each other about nothing (ours); by default they count. Raises InputError.

    >>> map_variance(torch.tensor([[[[0.0, 1.0]]], [[[1.0, 1.0]]]]))
    tensor(0.1250)
    """
    _check_maps(maps)
    if not skip_flat:
        return (maps - maps.mean(0)).square().mean()
    there = (maps.detach().amax((2, 3)) > 0).to(maps.dtype)[..., None, None]  # (M, B, 1, 1)
    count = there.sum(0).clamp(min=1)
    mean = (there * maps).sum(0) / count
    squares = (there * (maps - mean).square()).sum(0) / count
    return squares.mean()


def evidence(maps: Tensor) -> Tensor:
    """Minus the mean of the maps (M, B, H, W), a scalar: the more the networks see in an image, the smaller.

    MetaDD has a third loss, L_pos, whose definition is not known to us. This is our reconstruction of it, which keeps maps
    from vanishing, as they otherwise may to agree. Raises InputError.

    >>> evidence(torch.tensor([[[[0.0, 1.0]]], [[[1.0, 1.0]]]]))
    tensor(-0.7500)
    """
    _check_maps(maps, least=1)
    return -maps.mean()


def distillation(logits: Tensor, known: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(known / T) || softmax(logits / T)), the mean over images, a scalar in nats (Hinton et al. 2015).

    logits, known: (B, K); known without gradient. Raises InputError.

    >>> distillation(torch.zeros(2, 3), torch.zeros(2, 3))
    tensor(0.)
    """
    both = isinstance(logits, torch.Tensor) and isinstance(known, torch.Tensor)
    if not both or logits.shape != known.shape or logits.dim() != 2 or not len(logits) or \
            not is_number(temperature) or temperature <= 0:
        raise InputError(f"distillation: expected two sets of logits (B, K) and a temperature above 0, got {shown(logits)}, "
                         f"{shown(known)} and {shown(temperature)}")
    return temperature**2 * kl(logits, known.detach(), temperature) / len(logits)


class Masks(NamedTuple):
    """Meta features (B, H, W): where all networks see the class; heterogeneous ones (B, M, H, W): where one of them does but
    not all. Boolean."""

    meta: Tensor
    heterogeneous: Tensor

    @property
    def meta_share(self) -> float:
        """Share of the area that is meta."""
        return float(self.meta.double().mean())

    @property
    def heterogeneous_share(self) -> float:
        """Share of the area that is heterogeneous, the mean over networks."""
        return float(self.heterogeneous.double().mean())

    @property
    def empty(self) -> Tensor:
        """In which images (rows) which networks (columns) see nothing, (B, M), boolean."""
        return ~(self.heterogeneous | self.meta[:, None]).flatten(2).any(2)

    @property
    def empty_share(self) -> float:
        """Share of the maps in which nothing is seen."""
        return float(self.empty.double().mean())

    @property
    def overlap(self) -> float:
        """Where all networks see the class, as a share of where any does, over all images; nan if none sees anything."""
        union = (self.meta | self.heterogeneous.any(1)).double().sum()
        return float(self.meta.double().sum() / union) if union else math.nan

    @property
    def common(self) -> float:
        """The same over the images in which every network sees something: an image in which one sees nothing has nothing
        that all see, whatever the others see. nan if there are none."""
        rows = ~self.empty.any(1)
        return Masks(self.meta[rows], self.heterogeneous[rows]).overlap


def masks(maps: Tensor, threshold: float = 0.5) -> Masks:
    """Meta and heterogeneous features of images by normalized maps (M, B, H, W) of M networks: values of at least
    ``threshold`` in all networks, or in this one but not in all (MetaDD, eq. 1). Raises InputError."""
    _check_maps(maps)
    if not is_number(threshold) or not 0 < threshold <= 1:
        raise InputError(f"masks: expected a threshold above 0 and at most 1, got {shown(threshold)}")
    seen = (maps >= threshold).transpose(0, 1)
    meta = seen.all(1)
    return Masks(meta, seen & ~meta[:, None])


def _check_maps(maps: Tensor, least: int = 2) -> None:
    if not isinstance(maps, torch.Tensor) or maps.dim() != 4 or not maps.is_floating_point():
        raise InputError(f"expected maps (M, B, H, W) of M networks, got {shown(maps)}")
    if len(maps) < least:
        raise InputError(f"expected maps (M, B, H, W) of at least {counted(least, 'network')}, got those of {len(maps)}")
    if not maps[0].numel():
        raise InputError(f"expected maps (M, B, H, W) of at least one image, got {shown(maps)}")
