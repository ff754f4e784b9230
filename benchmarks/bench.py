"""This library beside the plain loops of ``plain.py`` and the floor, on CIFAR-10 shape.

usage: python benchmarks/bench.py [--widths 32,128] [--rounds 3] [--cases dm,dm-bf16,dc,dsa,evaluation] [--real 128]

Random pixels (the time does not depend on them). Results are compared before anything is timed (column "differ": the
largest relative difference of losses and gradients, or of accuracies). Ours, the plain loops, and ours with the C library's
allocator as it is (``memory.keep_freed``) are timed in turn, each in a process of its own: ratios are medians over rounds,
with their range. The floor is what the convolutions alone need (``floor.py``), in float32. "MiB" is how far the memory of
the process rises. Nothing is compiled, so no time is hidden.

dm-bf16 is DM with ``precision = "bfloat16"`` beside the plain loop in float32. A DC or DSA iteration has 2 outer steps and 5
inner epochs here; an evaluation has 5 students of 20 epochs, each scored on 640 images.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import plain
from authors import processor
from datastill.data import Batch, Images
from datastill.memory import ALLOCATOR, keep_freed
from datastill.methods.distribution import DistributionMatching
from datastill.methods.gradient import GradientMatching
from datastill.nets.convnet import ConvNet
from datastill.protocols.dc import DC
from datastill.rng import RNG
from datastill.scoring import evaluate
from datastill.task import Task
from floor import floor

CLASSES, SIDE, OUTER, INNER, EPOCHS, TRIALS, SCORED = 10, 32, 2, 5, 20, 5, 640
CASES = ("dm", "dm-bf16", "dc", "dsa", "evaluation")
SIDES = ("ours", "plain", "system")  # "system": ours, with the allocator as it is
Work = Callable[[], tuple[Tensor, ...]]


def make_task(width: int, real: int) -> Task:
    """Random pixels of CIFAR-10 shape, twice as many a class as one iteration draws."""
    count = 2 * real * CLASSES
    pixels = (RNG(0).uniform(count, 3, SIDE, SIDE) * 255).byte()
    images = Images(pixels, torch.arange(count) % CLASSES, tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3)
    return Task(images, ConvNet(width=width))


def cases(task: Task, real: int, ipc: int) -> dict[str, tuple[Work, Work, dict[str, int]]]:
    """(ours, plain, images by kind of pass) of each case."""
    rng = RNG(1)
    synthetic = task.synthetic(task.random_real(ipc, RNG(2)))
    pixels = synthetic.images["pixels"].requires_grad_()
    batch = Batch(pixels.detach(), synthetic.y().detach())
    count = CLASSES * ipc
    scored = task.real.subset(torch.arange(SCORED) % len(task.real))

    def dm(task: Task) -> tuple[Tensor, ...]:
        (step,) = DistributionMatching(batch_real=real, augment="none").iterate(0, synthetic, task, rng)
        return step.loss.detach(), torch.autograd.grad(step.loss, pixels)[0]

    def gradient(strategy: str) -> tuple[Tensor, ...]:
        """The sum of losses and the first step's gradient: later ones follow training, which magnifies rounding."""
        total, first = torch.zeros(()), None
        method = GradientMatching(batch_real=real, outer=OUTER, inner=INNER, augment=strategy)
        for step in method.iterate(0, synthetic, task, rng):
            (found,) = torch.autograd.grad(step.loss, pixels)
            total, first = total + step.loss.detach(), found if first is None else first
        assert first is not None
        return total, first

    protocol = DC(epochs=EPOCHS - 1, augment="none")  # E means E + 1 passes

    def evaluation() -> tuple[Tensor, ...]:
        scores = evaluate(synthetic, protocol, scored, network=task.network, trials=TRIALS)
        return (torch.tensor([one.accuracy for one in scores]),)

    matching = {"features": CLASSES * real, "pixels": count}
    step = {"weights": OUTER * CLASSES * real + (OUTER - 1) * INNER * count, "second": OUTER * count}
    return {
        "dm": (lambda: dm(task), lambda: plain.dm(task, pixels, real, rng), matching),
        "dm-bf16": (lambda: dm(replace(task, precision="bfloat16")), lambda: plain.dm(task, pixels, real, rng), matching),
        "dc": (lambda: gradient("none"), lambda: plain.dc(task, pixels, real, OUTER, INNER, rng), step),
        "dsa": (lambda: gradient("dsa"), lambda: plain.dc(task, pixels, real, OUTER, INNER, rng, "dsa"), step),
        "evaluation": (evaluation, lambda: (plain.evaluation(task, batch, scored, protocol.schedule()[0], TRIALS),),
                       {"weights": TRIALS * EPOCHS * count, "features": TRIALS * SCORED}),
    }


def differ(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> float:
    """Largest difference relative to the largest value."""
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(a, b, strict=True))


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def side(name: str, width: int, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of one side of a case, after a warm-up; MiB by which the memory of this process rises (0 where there is no
    /proc)."""
    keep_freed()  # as every command does, unless the environment forbids it
    work = cases(make_task(width, options.real), options.real, options.ipc)[name][options.side == "plain"]
    pages = Path("/proc/self/statm")
    before = int(pages.read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 2**20 if pages.exists() else 0.0
    work()
    seconds = timed(work)
    rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - before if before else 0.0
    return seconds, rise


def measure(which: str, name: str, width: int, options: argparse.Namespace) -> tuple[float, float]:
    """``side`` in a process of its own, because the allocator is set for a whole process."""
    command = [sys.executable, __file__, "--widths", str(width), "--cases", name, "--real", str(options.real),
               "--ipc", str(options.ipc), "--side", which]
    theirs = {} if which == "ours" else {ALLOCATOR: "system"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | theirs)
    seconds, rise = map(float, done.stdout.split())
    return seconds, rise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("widths", "32,128"), ("cases", ",".join(CASES))):
        parser.add_argument(f"--{name}", default=default)
    for name, number in (("ipc", 10), ("real", 128), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.cases.split(",") if name not in CASES]:
        parser.error(f"unknown case {unknown[0]!r}; expected some of {', '.join(CASES)}")
    if options.side is not None:
        print(*side(options.cases, int(options.widths), options))
        return
    print(f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {options.real} real and "
          f"{options.ipc} synthetic images a class, {options.rounds} rounds\n")
    print("| case | width | differ | ours, s | plain, s | plain / ours (range) | system's allocator / ours (range) | "
          "floor, s | ours / floor | ours, MiB | plain, MiB |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    keep_freed()
    for width in map(int, options.widths.split(",")):
        task = make_task(width, options.real)
        for name, (ours, theirs, work) in cases(task, options.real, options.ipc).items():
            if name in options.cases.split(","):
                least = sum(floor(width)[kind] * images for kind, images in work.items())
                print(row(name, width, differ(ours(), theirs()), least, options), flush=True)


def row(name: str, width: int, difference: float, least: float, options: argparse.Namespace) -> str:
    """One line of the table."""
    rounds = [{which: measure(which, name, width, options) for which in SIDES} for _ in range(options.rounds)]
    seconds, memory = ({which: statistics.median(one[which][part] for one in rounds) for which in SIDES}
                       for part in (0, 1))

    def ratio(which: str) -> str:
        found = sorted(one[which][0] / one["ours"][0] for one in rounds)
        return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"

    ours = seconds["ours"]
    return (f"| {name} | {width} | {difference:.0e} | {ours:.3f} | {seconds['plain']:.3f} | {ratio('plain')} | "
            f"{ratio('system')} | {least:.3f} | {ours / least:.1f} | {memory['ours']:.0f} | {memory['plain']:.0f} |")


if __name__ == "__main__":
    main()
