"""Where teachers see the classes of the run's images: their activation maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datastill.digest import spec
from datastill.errors import InputError
from datastill.functional.cam import Cam, activation_map, normalized_maps
from datastill.late import torch
from datastill.nets import fresh
from datastill.rng import RNG
from datastill.teachers.pool import Context, Pool, Teacher

if TYPE_CHECKING:
    from torch import Tensor


def look(teacher: Teacher, x: Tensor, y: Tensor, layer: str = "", through_weights: bool = True) -> Cam:
    """Maps of a teacher for the run's images x (B, C, H, W) and classes y (B,), normalized and of their size, (B, H, W), and
    its logits of the run's classes; differentiable if x is. Arguments as ``functional.cam.grad_cam``."""
    outputs = teacher.outputs
    wanted = y if outputs is None else torch.tensor(outputs, device=y.device)[y]
    cam = activation_map(teacher.network, teacher.see(x), wanted, layer, through_weights=through_weights)
    logits = cam.logits if outputs is None else cam.logits[:, outputs]
    return Cam(normalized_maps(cam.maps, (x.shape[2], x.shape[3])), logits)


def check_maps(pool: Pool, context: Context, layer: Sequence[str] = ()) -> None:
    """Check, before any are trained, that the networks of a pool have activation maps, at these layers, one for each, or by
    default at their deepest that tells places apart. Raises InputError."""
    for group, network in enumerate(pool.networks):
        domain = pool.domain(context, group)
        net = fresh(network, domain.shape, len(domain.classes), RNG("check"), context.real.device).eval()
        x = RNG("check")("maps").normal(2, *domain.shape).to(context.real.device)
        try:
            activation_map(net, x, torch.zeros(2, dtype=torch.long, device=x.device), layer[group] if layer else "")
        except InputError as error:
            raise InputError(f"{spec(network)}: {error}") from None
