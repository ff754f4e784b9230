"""SDC: sample difficulty correction, a penalty on the gradient norm of the synthetic images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from datastill.core import Plugin, Step
from datastill.errors import InputError
from datastill.functional.distances import gradient_norm
from datastill.late import F, torch
from datastill.nets import couples_samples
from datastill.rng import RNG
from datastill.task import Task

if TYPE_CHECKING:
    from torch import Tensor


class SDC(Plugin):
    """Sample difficulty correction (Wang et al. 2024, arXiv 2408.12483): easier synthetic images, whose loss has a small
    gradient with respect to a network's weights (their GraDN score).

    Gradient matching gives the norm of each class's gradient, of which the sum is taken; trajectory matching that of every
    inner step, of which the mean is taken; for every other method it is the norm of the gradient on all images of a step, at
    the network they are matched on (ours). All parameters count, biases and normalization too.

    power: 1: the norm; 2: its square. The paper's abstract says which idea it is, not which power (1 is inferred) and which
        weights: they are unknown. With ``balance="gradient"`` or "start" the weight is a share of the method's gradient.
    """

    weight: float = Field(default=0.002, ge=0.0)
    power: Literal[1, 2] = 1

    def loss(self, step: Step, task: Task, rng: RNG) -> Tensor:
        norms = step.gradient_norms
        if norms is None:
            norms = _norm_at(step, task)[None]
        powered = norms if self.power == 1 else norms.square()
        return powered.sum() if step.norm_reduce == "sum" else powered.mean()


def _norm_at(step: Step, task: Task) -> Tensor:
    """Norm of the gradient of the mean cross-entropy on a step's images with respect to the weights of its network."""
    net = step.net
    weights = {name: value.detach().requires_grad_() for name, value in net.named_parameters()}
    if not weights:
        raise InputError(f"plug-in sdc: the network of this method's steps ({type(net).__name__}) has no parameters, so "
                         "there is no gradient whose norm could be penalized")
    training = net.training
    try:
        if couples_samples(net):
            net.eval()  # its statistics must stay as they are
        logits = torch.func.functional_call(net, weights, (step.batch.x,))
    finally:
        net.train(training)
    loss = F.cross_entropy(logits, step.batch.y)
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
    return gradient_norm([one for one in found if one is not None])
