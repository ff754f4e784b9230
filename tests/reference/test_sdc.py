"""SDC against golden values: its term on gradient matching, and the theory. (On trajectory matching: ``test_trajectory``.)"""

from __future__ import annotations

import math

import pytest
import torch

from datastill.analysis.theory import crossover, simulate, solve
from datastill.data import Batch, Images
from datastill.methods.gradient import GradientMatching
from datastill.nets.convnet import ConvNet
from datastill.plugins.sdc import SDC
from datastill.rng import RNG
from datastill.task import Task
from reference.golden import Golden, error, set_parameters

GM, THEORY = Golden("sdc_gm"), Golden("sdc_theory")


def test_the_term_on_gradient_matching(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GM.config
    classes = config["C"]

    def labels(each: int) -> torch.Tensor:
        return torch.eye(classes, dtype=torch.float64).repeat_interleave(each, 0)

    images = Images(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.zeros(1, dtype=torch.long), tuple("abc"), (0.0,) * 3, (1.0,) * 3)
    architecture = ConvNet(width=config["width"], depth=config["depth"])
    net = set_parameters(architecture.build((3, 16, 16), classes).double(), GM.list("in.param"))
    real = Batch(GM["in.real"].double(), labels(config["nreal"]))
    monkeypatch.setattr(Task, "fresh", lambda self, rng: net.train())
    monkeypatch.setattr(Task, "random_real", lambda self, n, rng: real)
    task = Task(images, architecture)
    synthetic = task.synthetic(Batch(GM["in.syn"].double(), labels(config["ipc"])))
    x = synthetic.images["pixels"].requires_grad_()
    step = next(GradientMatching().iterate(0, synthetic, task, RNG(0)))
    assert step.gradient_norms is not None
    assert error(step.gradient_norms, GM["out.gnorm"]) < 1e-8
    for power, square in ((1, ""), (2, "_sq")):
        term = SDC(power=power).loss(step, task, RNG(0))  # type: ignore[arg-type]
        if power == 1:
            assert error(torch.autograd.grad(term, x, retain_graph=True)[0], GM["out.grad_gnorm"]) < 1e-8
        for number, weight in enumerate(config["lam"]):
            total = step.loss + weight * term
            assert error(total, GM[f"out.total{square}{number}"]) < 1e-8
            assert error(torch.autograd.grad(total, x, retain_graph=True)[0], GM[f"out.grad_total{square}{number}"]) < 1e-8


@pytest.mark.parametrize("number", range(8))
def test_the_theory(number: int) -> None:
    total, fraction, angle = (float(THEORY[f"in.{name}"][number]) for name in ("alpha_tot", "f", "theta_deg"))
    for keep in ("easy", "hard"):
        found = solve(total, fraction, keep, angle, check=True)  # type: ignore[arg-type]
        got = (found.error, found.overlap, found.probed, found.margin)
        for name, value, tolerance in zip(("err", "R", "rho", "kappa"), got, (1e-6, 1e-6, 1e-6, 1e-5), strict=True):
            assert value == pytest.approx(float(THEORY[f"out.{name}_{keep}"][number]), abs=tolerance)
        assert found.residuals is None or max(map(abs, found.residuals)) < 1e-8
        assert (found.residuals is None) == (angle == 0)
    assert solve(total, fraction, "random", angle).error == pytest.approx(float(THEORY["out.err_random"][number]), abs=1e-6)
    assert solve(total, 1.0).error == pytest.approx(float(THEORY["out.err_full"][number]), abs=1e-6)


ANCHORS = """
2 .10 .4900 .2527 .3887 .1885
2 .50 .3210 .1818 .2657 .1885
5 .20 .4177 .1346 .2657 .0938
10 .05 .4904 .1531 .3288 .0492
10 .20 .0971 .0840 .1885 .0492
20 .20 .0250 .0482 .1137 .0249
50 .05 .0121 .0526 .1629 .0100
50 .10 .0100 .0336 .0938 .0100
"""


@pytest.mark.parametrize("line", ANCHORS.strip().splitlines())
def test_errors_of_the_specification(line: str) -> None:
    """alpha_tot, fraction; errors for the hard, the easy, random ones, all of them."""
    total, fraction, *errors = map(float, line.split())
    found = [solve(total, fraction, keep).error for keep in ("hard", "easy", "random")]  # type: ignore[arg-type]
    assert [*found, solve(total, 1.0).error] == pytest.approx(errors, abs=6e-5)


@pytest.mark.parametrize(("fraction", "alpha"), [(0.05, 2.00), (0.2, 2.07), (0.5, 2.52)])
def test_below_two_samples_a_dimension_easy_ones_are_better(fraction: float, alpha: float) -> None:
    assert crossover(fraction) == pytest.approx(alpha, abs=0.006)


@pytest.mark.parametrize(("total", "fraction", "keep", "angle"), [(2, 0.5, "easy", 0), (2, 0.5, "hard", 0), (10, 0.2, "easy", 20), (1, 1.0, "random", 0)])
def test_students_of_finite_size_agree(total: float, fraction: float, keep: str, angle: float) -> None:
    errors = simulate(total, fraction, keep, angle, trials=6)  # type: ignore[arg-type]
    mean = sum(errors) / 6
    spread = math.sqrt(sum((one - mean) ** 2 for one in errors) / 5 / 6)
    assert abs(mean - solve(total, fraction, keep, angle).error) < 4 * spread + 0.003  # type: ignore[arg-type]
