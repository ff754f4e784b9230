"""Gradient matching against the original implementation: distances, the whole loss, its pixel gradient."""

import pytest
import torch

from datastill.data import Batch, Images
from datastill.functional.distances import gradient_distance
from datastill.methods.gradient import GradientMatching
from datastill.nets.convnet import ConvNet
from datastill.rng import RNG
from datastill.task import Task
from reference.golden import Golden, error, set_parameters

MATCH, LOSS = Golden("dc_match_loss"), Golden("dc_loss")
NAMES = {"layerwise": "ours", "mse": "mse", "cosine": "cos"}


@pytest.mark.parametrize("metric", NAMES)
def test_distance_and_its_gradient(metric: str) -> None:
    real = [g.double() for g in MATCH.list("in.real")]
    synthetic = [g.double().requires_grad_() for g in MATCH.list("in.syn")]
    distance = gradient_distance(synthetic, real, metric)
    gradients = torch.autograd.grad(distance, synthetic, allow_unused=True)
    filled = [torch.zeros_like(s) if g is None else g for s, g in zip(synthetic, gradients, strict=True)]
    assert error(distance, MATCH[f"out.{NAMES[metric]}"]) < 1e-9
    assert error(filled, MATCH.list(f"out.d_{NAMES[metric]}")) < 1e-9


@pytest.mark.parametrize("metric", NAMES)
def test_one_step_of_the_method(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden images as all real and synthetic images there are, the golden network as the one drawn."""
    config = LOSS.config
    classes = config["C"]

    def labels(each: int) -> torch.Tensor:
        return torch.eye(classes, dtype=torch.float64).repeat_interleave(each, 0)

    images = Images(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.zeros(1, dtype=torch.long), tuple("abc"), (0.0,) * 3,
                    (1.0,) * 3)
    architecture = ConvNet(width=config["width"], depth=config["depth"])
    net = set_parameters(architecture.build((3, 16, 16), classes).double(), LOSS.list("in.param"))
    real = Batch(LOSS["in.real"].double(), labels(config["nreal"]))
    monkeypatch.setattr(Task, "fresh", lambda self, rng: net.train())
    monkeypatch.setattr(Task, "random_real", lambda self, n, rng: real)
    synthetic = Task(images, architecture).synthetic(Batch(LOSS["in.syn"].double(), labels(config["ipc"])))
    x = synthetic.images["pixels"].requires_grad_()
    step = next(GradientMatching(metric=metric).iterate(0, synthetic, Task(images, architecture), RNG(0)))
    (gradient,) = torch.autograd.grad(step.loss, x, retain_graph=True)
    assert error(step.loss, LOSS[f"out.loss_{NAMES[metric]}"]) < 1e-8
    assert error(gradient, LOSS[f"out.grad_{NAMES[metric]}"]) < 1e-8
    of_class_0 = torch.sqrt(sum(g.square().sum() for g in LOSS.list("out.gsyn_class0")))
    assert float(step.gradient_norms[0].detach()) == pytest.approx(float(of_class_0), rel=1e-9)
