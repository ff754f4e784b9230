"""Unrolled training: memory and time of the exact gradient, of torch's own graph and of TESLA's estimate, over the steps.

usage: python benchmarks/trajectory.py [--width 128] [--images 500] [--steps 1,5,10,20,50] [--limit 12]

CIFAR-10 shape, ConvNet of depth 3, all images in one batch a step (random; neither time nor memory depends on them). Every
case runs in a process of its own: "peak" is how far its memory rises above that before, for one forward and backward of the
unrolled loss; the exact gradient is held against the full one where that fits. torch's own graph is tried while what it
would need, going by fewer steps, stays below ``limit`` GiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch

from apart import apart
from datastill.functional.unroll import Inner, unroll
from datastill.nets import as_function, chunk_size, fresh
from datastill.nets.convnet import ConvNet
from datastill.rng import RNG

HOWS = ("exact", "tesla", "full")


def case(how: str, steps: int, width: int, count: int) -> dict[str, Any]:
    """Seconds, MiB and the gradient's norm of one forward and backward."""
    net = fresh(ConvNet(width=width), (3, 32, 32), 10, RNG("network"), torch.device("cpu"))
    start, predict = as_function(net)
    x = RNG("x").normal(count, 3, 32, 32).requires_grad_()
    y = torch.eye(10)[torch.arange(count) % 10]
    lr = torch.tensor(0.01, requires_grad=True)
    target = start + 0.01 * RNG("target").normal(len(start))
    inner = Inner(predict, [torch.arange(count)] * steps, chunk=chunk_size(net, x, twice=True))
    torch.autograd.grad(inner.loss(start.clone().requires_grad_(), x[:8], y[:8], 0), x)  # what is allocated once
    before, began = _memory(), time.perf_counter()
    found = unroll(inner, start, x, y, lr, how)  # type: ignore[arg-type]
    loss = (found.last - target).square().sum() / (start - target).square().sum()
    gradient, at_lr = torch.autograd.grad(loss, [x, lr])
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - before
    some = [*gradient.flatten()[:2000].tolist(), float(at_lr)]
    return {"seconds": seconds, "MiB": peak, "loss": float(loss.detach()), "first": some}


def _memory() -> float:
    """MiB this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in (("width", 128), ("images", 500)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--steps", default="1,5,10,20,50")
    parser.add_argument("--limit", type=float, default=12.0, help="GiB")
    parser.add_argument("--how", choices=HOWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.how:
        print(json.dumps(case(options.how, int(options.steps), options.width, options.images)))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, width {options.width}, {options.images} images in "
          "one batch\n")
    print("| steps | gradient | peak, MiB | time, s | time / full | differs from full | loss |")
    print("|---|---|---|---|---|---|---|")
    needed = 0.0  # MiB a step of torch's own graph
    for steps in map(int, options.steps.split(",")):
        found = {}
        for how in reversed(HOWS):
            if how == "full" and needed * steps > options.limit * 2**10:
                print(f"| {steps} | full | does not fit: about {needed * steps:.0f} | | | | |", flush=True)
                continue
            found[how] = one = apart(
                __file__, "--width", options.width, "--images", options.images, "--how", how, "--steps", steps)
            if how == "full":
                needed = one["MiB"] / steps
            whole = found.get("full")
            ratio = f"{one['seconds'] / whole['seconds']:.2f}" if whole else ""
            differ = f"{_difference(one, whole):.0e}" if whole else ""
            print(f"| {steps} | {how} | {one['MiB']:.0f} | {one['seconds']:.1f} | {ratio} | {differ} | {one['loss']:.4f} |",
                  flush=True)


def _difference(one: dict[str, Any], whole: dict[str, Any]) -> float:
    a, b = torch.tensor(one["first"]), torch.tensor(whole["first"])
    images = float((a[:-1] - b[:-1]).abs().max() / b[:-1].abs().max())
    return max(images, float((a[-1] - b[-1]).abs() / b[-1].abs()))


if __name__ == "__main__":
    main()
