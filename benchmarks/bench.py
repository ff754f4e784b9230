"""This library beside the plain loops of ``plain.py`` and the floor, on CIFAR-10 shape.

usage: python benchmarks/bench.py [--widths 32,128] [--rounds 5] [--cases dm,dc,student] [--real 128] [--ipc 10]

Random pixels (the time does not depend on them). Results are compared before anything is timed (column "differ": the largest
relative difference of losses, gradients or weights). The two are timed in turn, so that a machine whose speed drifts slows
both: the ratio is the median of the pairs, with their range. The floor is what the convolutions alone need at the speed
measured for the middle one. A DC iteration has 2 outer steps and 5 inner epochs here, a student 10 epochs.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import plain
from datastill.core import Task
from datastill.data import Batch, Images
from datastill.methods.distribution import DistributionMatching
from datastill.methods.gradient import GradientMatching
from datastill.nets.convnet import ConvNet
from datastill.rng import RNG
from datastill.train import Fixed, fit

CLASSES, SIDE, OUTER, INNER, EPOCHS = 10, 32, 2, 5, 10
Work = Callable[[], tuple[Tensor, ...]]


def make_task(width: int, real: int) -> Task:
    """Random pixels of CIFAR-10 shape, twice as many a class as one iteration draws."""
    count = 2 * real * CLASSES
    pixels = (RNG(0).uniform(count, 3, SIDE, SIDE) * 255).byte()
    images = Images(pixels, torch.arange(count) % CLASSES, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3)
    return Task(images, ConvNet(width=width))


def cases(task: Task, real: int, ipc: int) -> dict[str, tuple[Work, Work, float]]:
    """(ours, plain, forward-equivalents of an image) of each case."""
    rng = RNG(1)
    synthetic = task.synthetic(task.random_real(ipc, RNG(2)))
    pixels = synthetic.images["pixels"].requires_grad_()
    batch = Batch(pixels.detach(), synthetic.y().detach())
    count = CLASSES * ipc

    def dm() -> tuple[Tensor, ...]:
        (step,) = DistributionMatching(batch_real=real, augment="none").iterate(0, synthetic, task, rng)
        return step.loss.detach(), torch.autograd.grad(step.loss, pixels)[0]

    def dc() -> tuple[Tensor, ...]:
        total, gradient = torch.zeros(()), pixels
        for step in GradientMatching(batch_real=real, outer=OUTER, inner=INNER).iterate(0, synthetic, task, rng):
            total, (gradient,) = total + step.loss.detach(), torch.autograd.grad(step.loss, pixels)
        return total, gradient

    def student() -> tuple[Tensor, ...]:
        net = task.fresh(rng("network"))
        fit(net, Fixed(batch), [0.01] * EPOCHS, rng("train"), batch_size=256)
        return (torch.cat([p.detach().flatten() for p in net.parameters()]),)

    # a forward costs 1, forward and backward 3, a backward through a gradient about 9
    return {
        "dm": (dm, lambda: plain.dm(task, pixels, real, rng), CLASSES * real + 3 * count),
        "dc": (dc, lambda: plain.dc(task, pixels, real, OUTER, INNER, rng),
               OUTER * (3 * CLASSES * real + 9 * count) + (OUTER - 1) * INNER * 3 * count),
        "student": (student, lambda: (plain.student(task, batch, EPOCHS, rng),), EPOCHS * 3 * count),
    }


def differ(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> float:
    """Largest difference relative to the largest value."""
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(a, b, strict=True))


def peak(width: int) -> float:
    """FLOP/s of the middle convolution."""
    conv, x = nn.Conv2d(width, width, 3, padding=1), torch.randn(256, width, 16, 16)
    with torch.no_grad():
        return 2.0 * 9 * width * width * 16**2 * 256 / min(timed(lambda: conv(x)) for _ in range(10))


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("widths", "32,128"), ("cases", "dm,dc,student")):
        parser.add_argument(f"--{name}", default=default)
    for name, number in (("ipc", 10), ("real", 128), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=number)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.real} real and {options.ipc} synthetic "
          f"images a class, {options.rounds} rounds\n")
    print("| case | width | differ | ours, s | plain, s | plain / ours (range) | floor, s | ours / floor |")
    print("|---|---|---|---|---|---|---|---|")
    for width in map(int, options.widths.split(",")):
        task = make_task(width, options.real)
        flop = 2.0 * 9 * (3 * width * 32**2 + width * width * 16**2 + width * width * 8**2)
        for name, (ours, theirs, forwards) in cases(task, options.real, options.ipc).items():
            if name not in options.cases.split(","):
                continue
            difference = differ(ours(), theirs())
            pairs = [(timed(ours), timed(theirs)) for _ in range(options.rounds)]
            mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratios = sorted(b / a for a, b in pairs)
            least = flop * forwards / peak(width)
            print(f"| {name} | {width} | {difference:.0e} | {mine:.3f} | {other:.3f} | {statistics.median(ratios):.2f} "
                  f"({ratios[0]:.2f} to {ratios[-1]:.2f}) | {least:.3f} | {mine / least:.1f} |", flush=True)
    print(f"\npeak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
