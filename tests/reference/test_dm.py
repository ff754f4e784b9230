"""Distribution matching against the original implementation: loss and pixel gradient, and the formula written out."""

import pytest
import torch

from datastill.data import Images
from datastill.functional.distances import class_means, mean_feature_distance
from datastill.methods.distribution import DistributionMatching
from datastill.nets.convnet import ConvNet
from datastill.rng import RNG
from datastill.task import Task
from reference.golden import Golden, error, set_parameters

GOLDEN = Golden("dm")
CLASSES, IPC, REAL = (GOLDEN.config[k] for k in ("C", "ipc", "nreal"))


def labels(each: int) -> torch.Tensor:
    return torch.eye(CLASSES, dtype=torch.float64).repeat_interleave(each, 0)


def network(norm: str) -> torch.nn.Module:
    net = ConvNet(width=GOLDEN.config["width"], depth=GOLDEN.config["depth"], norm=norm).build((3, 16, 16), CLASSES)
    return set_parameters(net.double(), GOLDEN.list("in.param"))


@pytest.mark.parametrize(("norm", "key"), [("instance", "in"), ("batch", "bn")])
def test_loss_and_gradient(norm: str, key: str) -> None:
    net = network(norm)
    x = GOLDEN["in.syn"].double().requires_grad_()
    real = class_means(net.embed(GOLDEN["in.real"].double()), labels(REAL)).detach()
    loss = mean_feature_distance(real, class_means(net.embed(x), labels(IPC)))
    (gradient,) = torch.autograd.grad(loss, x)
    assert error(loss, GOLDEN[f"out.{key}.loss"]) < 1e-9
    assert error(gradient, GOLDEN[f"out.{key}.grad"]) < 1e-9


@pytest.mark.parametrize(("norm", "key"), [("instance", "in"), ("batch", "bn")])
def test_the_method_itself_gives_it(norm: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole step on the golden images: every real image drawn, no augmentation, the golden network."""
    classes = tuple("abc"[:CLASSES])
    task = Task(Images(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.zeros(1, dtype=torch.long), classes,
                       (0.0,) * 3, (1.0,) * 3), ConvNet(norm=norm))
    real = type(task.real.batch(torch.tensor([0])))(GOLDEN["in.real"].double(), labels(REAL))
    synthetic = task.synthetic(real._replace(x=GOLDEN["in.syn"].double(), y=labels(IPC)))
    synthetic.images["pixels"].requires_grad_()
    monkeypatch.setattr(Task, "fresh", lambda self, rng: network(norm).train())
    monkeypatch.setattr(Task, "random_real", lambda self, n, rng: real)
    (step,) = DistributionMatching(augment="none").iterate(0, synthetic, task, RNG(0))
    (gradient,) = torch.autograd.grad(step.loss, synthetic.images["pixels"])
    assert error(step.loss, GOLDEN[f"out.{key}.loss"]) < 1e-9
    assert error(gradient, GOLDEN[f"out.{key}.grad"]) < 1e-9


def test_formula_written_out() -> None:
    g = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(6, 4, generator=g) for _ in range(2))
    y = torch.eye(3).repeat_interleave(2, 0)
    want = sum(((real[2 * c:2 * c + 2].mean(0) - fake[2 * c:2 * c + 2].mean(0)) ** 2).sum() for c in range(3))
    torch.testing.assert_close(mean_feature_distance(class_means(real, y), class_means(fake, y)), want)
