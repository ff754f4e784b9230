"""One DM iteration: this library, the plain class-by-class loop that everybody writes, and the floor.

usage: python benchmarks/dm.py [--width 32] [--ipc 10] [--real 128] [--rounds 7]

CIFAR-10 shape (random pixels: the time does not depend on them), no augmentation, the same weights, real and synthetic
images for both, so that losses and gradients must agree; they are compared before anything is timed. The plain loop uses
torch's own layers throughout. The two are timed in turn, so that a machine whose speed drifts slows both; quote the ratio.
The floor is the time the convolutions alone need at the speed measured for the largest of them, as one forward for the real
images and three for the synthetic ones.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from datastill.core import Task
from datastill.data import Images
from datastill.methods.distribution import DistributionMatching
from datastill.nets._pool import AveragePool
from datastill.nets.convnet import ConvNet
from datastill.rng import RNG
from datastill.synthetic import SyntheticSet

CLASSES, SIDE = 10, 32


def make_task(width: int, real: int) -> Task:
    """Random pixels of CIFAR-10 shape, twice as many a class as one iteration draws."""
    count = 2 * real * CLASSES
    pixels = (RNG(0).uniform(count, 3, SIDE, SIDE) * 255).byte()
    targets = torch.arange(count) % CLASSES
    return Task(Images(pixels, targets, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3), ConvNet(width=width))


def ours(task: Task, synthetic: SyntheticSet, real: int) -> tuple[Tensor, Tensor]:
    """Loss and gradient by the library."""
    method = DistributionMatching(batch_real=real, augment="none")
    (step,) = method.iterate(0, synthetic, task, RNG(1))
    (gradient,) = torch.autograd.grad(step.loss, list(synthetic.images.values()))
    return step.loss, gradient


def plain(task: Task, synthetic: SyntheticSet, real: int) -> tuple[Tensor, Tensor]:
    """Loss and gradient by a loop over classes, a forward for the real and one for the synthetic images of each."""
    rng = RNG(1)
    net = task.fresh(rng("network"))
    for name, layer in list(net.features.named_children()):
        if isinstance(layer, AveragePool):
            net.features.register_module(name, nn.AvgPool2d(2))
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    ipc = len(synthetic) // CLASSES
    pixels = next(iter(synthetic.images.values()))
    loss = torch.zeros(())
    for c in range(CLASSES):
        batch = task.real.sample(real, rng("real")(c), of_class=c)
        wanted = net.embed(batch.x).detach().mean(0)
        found = net.embed(pixels[c * ipc:(c + 1) * ipc]).mean(0)
        loss = loss + ((wanted - found) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, [pixels])
    return loss, gradient


def floor(task: Task, real: int, ipc: int) -> tuple[float, float]:
    """(seconds, GFLOP) of the convolutions of one iteration at the measured peak of the middle one."""
    width = task.network.width  # type: ignore[attr-defined]
    flop = 2.0 * 9 * (3 * width * 32**2 + width * width * 16**2 + width * width * 8**2) * CLASSES * (real + 3 * ipc)
    conv, x = nn.Conv2d(width, width, 3, padding=1), torch.randn(256, width, 16, 16)
    with torch.no_grad():
        seconds = min(timed(lambda: conv(x)) for _ in range(10))
    return flop / (2.0 * 9 * width * width * 16**2 * 256 / seconds), flop / 1e9


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 32), ("ipc", 10), ("real", 128), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    task = make_task(options.width, options.real)
    synthetic = task.synthetic(task.random_real(options.ipc, RNG(2)))
    for parameter in synthetic.images.values():
        parameter.requires_grad_()
    (loss_a, grad_a), (loss_b, grad_b) = (f(task, synthetic, options.real) for f in (ours, plain))
    print(f"equal: loss {abs(float(((loss_a - loss_b) / loss_b).detach())):.1e}, "
          f"gradient {float((grad_a - grad_b).abs().max() / grad_b.abs().max()):.1e} (relative)")
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(options.rounds):
        for name, work in (("ours", ours), ("plain", plain)):
            times[name].append(timed(lambda f=work: f(task, synthetic, options.real)))  # type: ignore[misc]
    ratios = [b / a for a, b in zip(times["ours"], times["plain"], strict=True)]
    least, gflop = floor(task, options.real, options.ipc)
    for name, values in times.items():
        print(f"{name:6} {statistics.median(values):.3f} s an iteration (from {min(values):.3f} to {max(values):.3f})")
    print(f"plain / ours {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f}, paired)")
    print(f"floor  {least:.3f} s ({gflop:.0f} GFLOP of convolutions at the measured peak); "
          f"ours is {statistics.median(times['ours']) / least:.1f} times that")
    print(f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, "
          f"torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
