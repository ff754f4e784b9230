"""When easy samples win: the pruned teacher-student perceptron of Sorscher et al. 2022 (NeurIPS, "Beyond neural scaling
laws"), carried over to distillation.

Inputs x are normal in N dimensions, a teacher T labels them by y = sign(T.x). Of alpha_tot N of them a fraction is kept by
the margin |z| of a probe P that is an angle away from the teacher, z = P.x: the hard ones have the smallest margins. A
student is the max-margin perceptron J on the alpha_prune N kept ones, alpha_prune = fraction alpha_tot. Its test error is
arccos(J.T) / pi for unit vectors. In distillation, alpha_prune stands for images per class (the symbols' translation is
ours).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise, product
from typing import Literal

import numpy as np
from scipy.optimize import brentq, minimize, nnls, root
from scipy.special import ndtr, ndtri

from datastill.arguments import is_number, numbers, whole
from datastill.errors import InputError, RunError
from datastill.progress import Progress
from datastill.tables import shown

Keep = Literal["easy", "hard", "random"]
KEEPS: tuple[Keep, ...] = ("easy", "hard", "random")
NODES, COARSE, MOST = 64, 16, 1024  # of each Gauss-Legendre rule; of those that only compare points to start from; at most
FAR = 9.0  # standard deviations beyond which a normal density is nothing
LARGEST, SMALLEST = 10**4, 1e-6  # alpha; fraction
CLOSE = 1e-4  # how much finer quadrature may change an error, as a share of it


@dataclass(frozen=True)
class Solution:
    """The student for one setting.

    error: test error, a fraction. overlap: R = J.T. probed: rho = J.P. margin: kappa, the smallest y J.x / |J| of a kept
    sample. residuals: of the three self-consistent equations of the replica theory, which the solution does not use; None at
    angle 0 and for random samples, where they are degenerate.
    """

    error: float
    overlap: float
    probed: float
    margin: float
    residuals: tuple[float, float, float] | None = None


def solve(alpha_tot: float, fraction: float, keep: Keep = "easy", angle: float = 0.0, *, check: bool = False) -> Solution:
    """The test error of a student on a kept fraction of alpha_tot samples a dimension; ``angle`` of the probe in degrees.

    With fields z = P.x and b = z cos(angle) + g sin(angle) of the probe and the teacher, and u = rho z + c g + s h of the
    student, z, g, h independent, z cut to the kept margins, s^2 = 1 - rho^2 - c^2, the margin kappa is where

        min over rho, c of rho^2 + c^2 + alpha_prune E[(kappa - sign(b) u)_+^2] = 1

    (Gordon's inequality; the mean over h is done by hand). Then R = rho cos(angle) + c sin(angle). check: compute residuals.
    Raises InputError for settings outside their domain; RunError where the error is too small to be solved for (from
    alpha_prune of a few hundred on, earlier for hard samples).

    >>> round(solve(2.0, 0.5, "easy").error, 3), round(solve(2.0, 0.5, "hard").error, 3)
    (0.182, 0.321)
    """
    check_setting(alpha_tot, fraction, keep, angle)
    alpha_tot, fraction, angle = float(alpha_tot), float(fraction), float(angle)
    if keep == "random" or fraction == 1.0:
        return _solved(alpha_tot * fraction, None, 0.0, False)
    return _solved(alpha_tot * fraction, (keep, fraction), math.radians(angle), check)


def check_setting(alpha_tot: float, fraction: float, keep: str, angle: float) -> None:
    """Check that a setting is in its domain. Raises InputError."""
    if not is_number(alpha_tot) or not 0 < alpha_tot <= LARGEST:
        raise InputError(f"alpha_tot: expected a number above 0 and at most {LARGEST}, got {shown(alpha_tot)}")
    if not is_number(fraction) or not SMALLEST <= fraction <= 1:
        raise InputError(f"fraction: expected a number from {SMALLEST:g} to 1, got {shown(fraction)}")
    if not is_number(angle) or not 0 <= angle < 90:
        raise InputError(f"angle: expected degrees from 0 to below 90 (at 90 the probe knows nothing), got {shown(angle)}")
    if keep not in KEEPS:
        raise InputError(f"keep: expected easy, hard or random, got {shown(keep)}")


@cache
def _solved(alpha: float, kept: tuple[Keep, float] | None, angle: float, check: bool) -> Solution:
    grid, coarse = _Grid(kept, angle, NODES), _Grid(kept, angle, COARSE)

    def lowest(log_kappa: float) -> tuple[float, np.ndarray]:
        """The minimum over rho and c less 1, from the best point of a lattice, since there may be several minima."""
        kappa = math.exp(log_kappa)
        first = min(_lattice(angle), key=lambda at: coarse.equations(alpha, *_inside(at), kappa)[2])
        found = minimize(lambda at: grid.value(alpha, at, kappa), first, jac=True, method="BFGS", options={"gtol": 1e-7})
        return float(found.fun), found.x

    low, high = -1.0, 1.0
    while lowest(low)[0] > 0:
        low -= 2.0
        if low < -40:  # the margin is too small for the coarse quadrature to see
            raise _too_small(alpha, kept, angle)
    while lowest(high)[0] < 0:
        high += 1.0
    start = brentq(lambda at: lowest(at)[0], low, high, xtol=1e-3)
    first = np.append(lowest(start)[1], start)
    at, error = first, math.inf
    while True:
        found = root(lambda at: grid.equations(alpha, *_inside(at), math.exp(min(at[2], 50.0))), at, tol=1e-12)  # noqa: B023
        if not max(abs(one) for one in found.fun) < 1e-7:
            raise _too_small(alpha, kept, angle)
        at, before, error = found.x, error, _error(_overlap(found.x, angle))
        if abs(error - before) <= CLOSE * error:
            break
        if 2 * grid.nodes > MOST:
            raise _too_small(alpha, kept, angle)
        grid = _Grid(kept, angle, 2 * grid.nodes)  # kinks become sharper with alpha
    (rho, _), kappa, overlap = _inside(at), math.exp(at[2]), _overlap(at, angle)
    residuals = _residuals(alpha, kept, angle, overlap, rho, kappa) if check and kept and angle > 0 else None
    return Solution(error, overlap, rho, kappa, residuals)


def _overlap(at: np.ndarray, angle: float) -> float:
    """R at a point as ``_inside`` takes it."""
    rho, c = _inside(at)
    return float(rho * math.cos(angle) + c * math.sin(angle))


def _error(overlap: float) -> float:
    return math.acos(min(1.0, max(-1.0, overlap))) / math.pi


def _too_small(alpha: float, kept: tuple[Keep, float] | None, angle: float) -> RunError:
    what = "all samples" if kept is None else f"the {kept[0]} {kept[1]:g}"
    return RunError(f"no solution was found for {what} at alpha_prune {alpha:g} and angle {math.degrees(angle):g}: the "
                    "student is so good there that the equations cannot be solved to the accuracy of its error")


@cache
def _lattice(angle: float) -> list[np.ndarray]:
    """Points to start from, as ``_inside`` takes them."""
    lengths = np.array([0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99])
    turns = np.zeros(1) if angle == 0 else np.linspace(-0.25, 1.0, 8) * math.pi / 2
    return [length / math.sqrt(1 - length**2) * np.array([math.cos(turn), math.sin(turn)])
            for length in lengths for turn in turns]


def _inside(at: np.ndarray) -> tuple[float, float]:
    """rho and c inside the unit circle, from any two numbers."""
    length = math.sqrt(1 + at[0] ** 2 + at[1] ** 2)
    return at[0] / length, at[1] / length


class _Grid:
    """Quadrature over z (kept margins, z > 0: the other half is the same by symmetry) and g, split where the teacher's sign
    changes."""

    def __init__(self, kept: tuple[Keep, float] | None, angle: float, nodes: int) -> None:
        self.nodes = nodes
        z, of_z = _margins(kept, nodes)
        if angle == 0:
            ranges = [np.broadcast_to([-FAR, FAR], (len(z), 2))]  # g matters not
        else:
            turn = np.clip(-z / math.tan(angle), -FAR, FAR)
            ranges = [np.stack([np.full_like(turn, -FAR), turn], 1), np.stack([turn, np.full_like(turn, FAR)], 1)]
        parts = [_legendre(limits, nodes) for limits in ranges]
        self.g = np.concatenate([points for points, _ in parts], 1)
        self.weight = of_z[:, None] * np.concatenate([weights * _density(points) for points, weights in parts], 1)
        self.z = np.broadcast_to(z[:, None], self.g.shape)
        self.sign = np.sign(self.z * math.cos(angle) + self.g * math.sin(angle))

    def equations(self, alpha: float, rho: float, c: float, kappa: float) -> tuple[float, float, float]:
        """Half the derivatives with respect to rho and c of what is minimized, and its value less 1."""
        s = math.sqrt(max(1 - rho * rho - c * c, 1e-30))
        m = kappa - self.sign * (rho * self.z + c * self.g)
        below, density = ndtr(m / s), _density(m / s)
        slope = self.weight * (m * below + s * density)  # half the derivative with respect to m
        value = float((self.weight * ((m * m + s * s) * below + m * s * density)).sum())
        share = 1 - alpha * float((self.weight * below).sum())
        return (rho * share - alpha * float((self.sign * self.z * slope).sum()),
                c * share - alpha * float((self.sign * self.g * slope).sum()), rho * rho + c * c + alpha * value - 1)

    def value(self, alpha: float, at: np.ndarray, kappa: float) -> tuple[float, np.ndarray]:
        """What is minimized, less 1, and its derivative, as a function of two numbers."""
        rho, c = _inside(at)
        by_rho, by_c, value = self.equations(alpha, rho, c, kappa)
        cube = (1 + at[0] ** 2 + at[1] ** 2) ** 1.5
        change = np.array([[1 + at[1] ** 2, -at[0] * at[1]], [-at[0] * at[1], 1 + at[0] ** 2]]) / cube
        return value, 2 * change @ np.array([by_rho, by_c])


def _margins(kept: tuple[Keep, float] | None, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for means over kept margins z > 0."""
    low, high, fraction = 0.0, FAR, 1.0
    if kept is not None:
        keep, fraction = kept
        bound = float(ndtri((1 + fraction) / 2 if keep == "hard" else 1 - fraction / 2))
        low, high = (0.0, min(bound, FAR)) if keep == "hard" else (bound, bound + FAR)
    (points,), (weights,) = _legendre(np.array([[low, high]]), nodes)
    return points, weights * _density(points) * 2 / fraction


def _legendre(limits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights (K, count) of Gauss-Legendre quadrature for ranges (K, 2)."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    half, middle = (limits[:, 1:] - limits[:, :1]) / 2, (limits[:, 1:] + limits[:, :1]) / 2
    return middle + half * nodes, half * weights


def _density(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return found


def _residuals(alpha: float, kept: tuple[Keep, float], angle: float, r: float, rho: float,
               kappa: float) -> tuple[float, float, float]:
    """Left minus right side of the three equations of the replica theory for R, kappa and rho."""
    positive, of_z = _margins(kept, NODES)
    z = np.concatenate([-positive, positive])[:, None]
    weight = np.concatenate([of_z, of_z])[:, None] / 2
    cos, sin2 = math.cos(angle), math.sin(angle) ** 2
    lam = math.sqrt(sin2 - r * r - rho * rho + 2 * rho * r * cos)
    spread = 1 - rho * rho
    ends = np.array([kappa - 4 * FAR, kappa - FAR, kappa - 3, kappa - 0.5, kappa])
    reach = np.stack([ends[:-1], ends[1:]], 1)
    nodes, steps = _legendre(reach, NODES)
    t, weight = nodes.reshape(1, -1), weight * steps.reshape(1, -1)
    gamma = z * (rho * r - cos) - t * (r - rho * cos)
    delta = z * z * (rho * rho + cos * cos - 2 * rho * r * cos) + 2 * t * z * (r * cos - rho) + t * t * sin2
    edge = np.exp(-delta / (2 * lam * lam))
    bulk = np.exp(-(t - rho * z) ** 2 / (2 * spread)) / math.sqrt(2 * math.pi * spread)
    bulk = bulk * ndtr(-gamma / (math.sqrt(spread) * lam))
    room = kappa - t

    def mean(values: np.ndarray) -> float:
        return float((weight * values).sum())

    return ((r - rho * cos) / sin2 - alpha / (math.pi * lam) * mean(edge * room),
            1 - (rho * rho + r * r - 2 * rho * r * cos) / sin2 - 2 * alpha * mean(bulk * room * room),
            (rho - r * cos) / sin2 - 2 * alpha * mean(bulk * (z - rho * t) / spread * room
                                                     + edge / (2 * math.pi * lam) * (rho * r - cos) / spread * room))


def crossover(fraction: float, angle: float = 0.0) -> float:
    """alpha_prune at which keeping the easy and the hard fraction give the same error: below it easy samples are better,
    above it hard ones. Raises InputError; RunError if there is none up to alpha_prune 100 (or alpha_tot 10,000)."""
    check_setting(1.0, fraction, "easy", angle)
    if fraction == 1.0:
        raise InputError("fraction: with all samples kept, easy and hard ones are the same; expected less than 1")
    most = min(100.0, LARGEST * fraction)

    def gap(alpha: float) -> float:
        easy, hard = (solve(min(alpha / fraction, LARGEST), fraction, keep, angle).error for keep in ("easy", "hard"))
        return 1 - hard / easy

    low = None
    for high in (one for one in np.geomspace(0.5, 100.0, 25).tolist() if one <= most):
        after = gap(high)
        if after < 0:
            low = high
        elif low is not None and after > 10 * CLOSE:  # smaller gaps are rounding
            return float(brentq(gap, low, high, xtol=1e-4))
    raise RunError(f"easy samples are better up to alpha_prune {most:g} at fraction {fraction:g} and angle {angle:g}, or "
                   "as good")


def simulate(alpha_tot: float, fraction: float, keep: Keep = "easy", angle: float = 0.0, *, dimension: int = 200,
             trials: int = 8, seed: int = 0) -> list[float]:
    """Test errors of students of finite size, each of its own teacher, probe and samples: exact max-margin perceptrons.
    dimension: of the inputs, from 2; trials: at least 1; seed: 0 or more. Raises InputError."""
    check_setting(alpha_tot, fraction, keep, angle)
    dimension, trials, seed = whole("dimension", dimension, 2), whole("trials", trials, 1), whole("seed", seed)
    total, count = round(alpha_tot * dimension), round(alpha_tot * fraction * dimension)
    if count < 1:
        raise InputError(f"fraction {fraction:g} of {total} samples leaves none; use a larger fraction, alpha_tot or "
                         "dimension")
    return [_simulated(total, count, keep, math.radians(angle), dimension, np.random.default_rng([seed, trial]))
            for trial in range(trials)]


def _simulated(total: int, count: int, keep: Keep, angle: float, dimension: int, rng: np.random.Generator) -> float:
    teacher, other = np.linalg.qr(rng.standard_normal((dimension, 2)))[0].T
    x = rng.standard_normal((total, dimension))
    margins = np.abs(x @ (math.cos(angle) * teacher + math.sin(angle) * other))
    order = rng.permutation(total) if keep == "random" else np.argsort(margins if keep == "hard" else -margins)
    x = x[order[:count]]
    y = np.sign(x @ teacher)
    # The shortest J with y x.J >= 1 for all samples, as a non-negative least squares problem (Lawson & Hanson 1974, ch. 23).
    system = np.concatenate([(x * y[:, None]).T, np.ones((1, len(x)))])
    target = np.zeros(dimension + 1)
    target[-1] = 1.0
    student = (target - system @ nnls(system, target, maxiter=100 * len(x))[0])[:-1] * -1.0
    return math.acos(float(np.clip(student @ teacher / np.linalg.norm(student), -1, 1))) / math.pi


@dataclass(frozen=True)
class Map:
    """What hard samples cost compared with easy ones, by fraction kept and alpha_tot: gaps (F, A), differences of test
    errors, above 0 where easy ones are better; NaN where an error is too small to be solved for. crossings: for every
    fraction the alpha_tot at which both are equal, None if it is not among the alphas."""

    fractions: tuple[float, ...]
    alphas: tuple[float, ...]
    gaps: np.ndarray
    crossings: tuple[float | None, ...]


MAP_FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
MAP_ALPHAS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


def gap_map(angle: float = 0.0, fractions: Sequence[float] = MAP_FRACTIONS, alphas: Sequence[float] = MAP_ALPHAS) -> Map:
    """Differences of test errors, hard minus easy, for every fraction kept of every alpha_tot, in ascending order. Raises
    InputError."""
    fractions, alphas = numbers("fractions", fractions), numbers("alphas", alphas)
    if sorted(set(alphas)) != list(alphas):
        raise InputError(f"alphas: expected ascending numbers, got {shown(list(alphas))}")
    for fraction, alpha in product(fractions, alphas):
        check_setting(alpha, fraction, "easy", angle)
    gaps = np.array([[_gap(alpha, fraction, angle) for alpha in alphas] for fraction in fractions])
    crossings = tuple(_vanishes(fraction, angle, alphas, row.tolist())
                      for fraction, row in zip(fractions, gaps, strict=True))
    return Map(fractions, alphas, gaps, crossings)


def _vanishes(fraction: float, angle: float, alphas: Sequence[float], gaps: Sequence[float]) -> float | None:
    """The alpha_tot between two of the alphas at which the gap changes its sign."""
    for (low, before), (high, after) in pairwise(zip(alphas, gaps, strict=True)):
        if before > 0 > after:
            found = brentq(lambda at: _gap(math.exp(at), fraction, angle), math.log(low), math.log(high), xtol=0.02)
            return math.exp(float(found))
    return None


def _gap(alpha_tot: float, fraction: float, angle: float) -> float:
    try:
        hard, easy = (solve(alpha_tot, fraction, keep, angle).error for keep in ("hard", "easy"))
        return hard - easy
    except RunError:
        return math.nan


@dataclass(frozen=True)
class Curves:
    """Test errors over alpha_prune by (keep, fraction, angle); ``random`` ones depend on neither of the last two.

    crossings: (fraction, angle) -> alpha_prune, where there is one. simulated: mean and standard error by (keep, fraction,
    angle) at some of the alphas. maps: by angle.
    """

    alphas: tuple[float, ...]
    errors: dict[tuple[Keep, float, float], tuple[float, ...]]
    crossings: dict[tuple[float, float], float]
    simulated: dict[tuple[Keep, float, float], tuple[tuple[float, float, float], ...]]
    maps: dict[float, Map] = field(default_factory=dict)


ALPHAS = tuple(np.geomspace(0.2, 10.0, 13).round(4).tolist())


def curves(fractions: Sequence[float] = (0.05, 0.2, 0.5), angles: Sequence[float] = (0.0, 20.0, 40.0), *,
           alphas: Sequence[float] = ALPHAS, trials: int = 0, maps: bool = False,
           progress: Progress = Progress()) -> Curves:
    """Errors of easy and hard samples for every fraction and angle, of random ones, and where they cross. trials: finite
    students at four of the alphas. maps: and ``gap_map`` for every angle. Raises InputError before the work."""
    fractions, angles, alphas = numbers("fractions", fractions), numbers("angles", angles), numbers("alphas", alphas)
    trials = whole("trials", trials)
    for alpha in alphas:
        check_setting(alpha, 1.0, "easy", 0.0)
    for fraction in fractions:
        if not max(alphas) / LARGEST <= fraction <= 1:
            raise InputError(f"fraction: expected a number from {max(alphas) / LARGEST:g} to 1, got {shown(fraction)}")
    for alpha, fraction, angle in product(alphas, fractions, angles):
        check_setting(alpha / fraction, fraction, "easy", angle)
    keys: list[tuple[Keep, float, float]] = [("random", 1.0, 0.0)]
    keys += [(keep, fraction, angle) for angle in angles for fraction in fractions for keep in ("easy", "hard")]
    errors: dict[tuple[Keep, float, float], tuple[float, ...]] = {}
    simulated: dict[tuple[Keep, float, float], tuple[tuple[float, float, float], ...]] = {}
    crossings = {}
    count = len(keys) + maps * len(angles)
    for number, key in enumerate(keys):
        keep, fraction, angle = key
        progress.tell(number, count, f"{keep}, fraction {fraction:g}, angle {angle:g}")
        errors[key] = tuple(solve(alpha / fraction, fraction, keep, angle).error for alpha in alphas)
        if trials:
            simulated[key] = tuple(_mean(alpha, simulate(alpha / fraction, fraction, keep, angle, trials=trials))
                                   for alpha in alphas[::4] if alpha / fraction <= 20)
        if keep == "hard" and fraction < 1:
            with suppress(RunError):
                crossings[fraction, angle] = crossover(fraction, angle)
    drawn = {}
    for number, angle in enumerate(angles if maps else ()):
        progress.tell(len(keys) + number, count, f"map, angle {angle:g}")
        drawn[angle] = gap_map(angle)
    progress.tell(count, count)
    return Curves(alphas, errors, crossings, simulated, drawn)


def _mean(alpha: float, errors: Sequence[float]) -> tuple[float, float, float]:
    """alpha, mean, standard error."""
    return alpha, float(np.mean(errors)), float(np.std(errors, ddof=1) / math.sqrt(len(errors))) if len(errors) > 1 else 0.0
