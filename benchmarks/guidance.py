"""What guidance costs: an iteration of DM with clom or cclom, beside plain DM and one forward and backward of the teacher.

usage: python benchmarks/guidance.py [--widths 32,128] [--rounds 5] [--real 128] [--ipc 10]

Random pixels of CIFAR-10 shape and untrained teachers of four architectures (times depend on neither); real features are
computed and stored before the timing. In each round, for each teacher in turn: a guided iteration (the loop's own, with
update and log line), a plain one, and the least that guidance can do, cross-entropy of the teacher on the synthetic set and
its gradient at the images. The ratio is guided / (plain + teacher); that of "all" is of sums over the teachers, each being
drawn equally often. VGG11, ResNet18 and AlexNet have the field's widths at width 128, a quarter of them at 32.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import CLASSES, make_task
from datastill.core import Plugin
from datastill.loop import Loop
from datastill.methods.distribution import DistributionMatching
from datastill.plugins.cclom import CCLoM
from datastill.plugins.clom import CLoM
from datastill.rng import RNG
from datastill.teachers.supervised import Supervised

TEACHERS = {"convnet": 128, "vgg11": 64, "resnet18": 64, "alexnet": 192}  # widths of the field


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def least(network: nn.Module, x: Tensor, y: Tensor) -> None:
    """One forward and backward of a teacher on all synthetic images."""
    torch.autograd.grad(F.cross_entropy(network(x), y), x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="32,128")
    for name, number in (("rounds", 5), ("real", 128), ("ipc", 10)):
        parser.add_argument(f"--{name}", type=int, default=number)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.real} real and {options.ipc} synthetic "
          f"images a class, {options.rounds} rounds\n")
    print("| plug-in | width | teacher | guided, s | plain, s | teacher, s | guided / (plain + teacher) (range) |")
    print("|---|---|---|---|---|---|---|")
    for width in map(int, options.widths.split(",")):
        for kind in (CLoM, CCLoM):
            measure(kind, width, options)


def measure(kind: type[CLoM] | type[CCLoM], width: int, options: argparse.Namespace) -> None:
    """Print the rows of one plug-in at one width."""
    method = DistributionMatching(iterations=1000, batch_real=options.real, augment="none")
    rounds: dict[str, list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as root:
        task = replace(make_task(width, options.real), root=Path(root))
        for name, usual in TEACHERS.items():
            pool = Supervised.model_validate({"networks": [{"kind": name, "width": usual * width // 128}],
                                              "count": 1, "epochs": 0, "validation": 0.0})
            plugin = kind(pool=pool)
            plugin.prepare(task)
            (teacher,) = task.teachers(pool)
            teacher.directions(task.real)

            def loop(plugins: dict[str, Plugin]) -> Loop:
                made = Loop(method, plugins, task, RNG(0), options.ipc)
                made.advance()  # the first measures gradient norms, as every hundredth does
                return made

            guided, plain = loop({"guidance": plugin}), loop({})
            x = guided.synthetic.batch().x.detach().requires_grad_()
            y = torch.arange(CLASSES).repeat_interleave(options.ipc)

            alone = partial(least, teacher.network, x, y)
            alone()
            rounds[name] = [(timed(guided.advance), timed(plain.advance), timed(alone)) for _ in range(options.rounds)]
    rounds["all"] = [tuple(map(sum, zip(*one, strict=True))) for one in zip(*rounds.values(), strict=True)]  # type: ignore[misc]
    for name, times in rounds.items():
        ratios = sorted(with_ / (without + teacher) for with_, without, teacher in times)
        middle = " | ".join(f"{statistics.median(column):.3f}" for column in zip(*times, strict=True))
        print(f"| {kind.__name__} | {width} | {name} | {middle} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to "
              f"{ratios[-1]:.2f}) |", flush=True)


if __name__ == "__main__":
    main()
