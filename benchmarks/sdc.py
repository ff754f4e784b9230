"""What sample difficulty correction costs: iterations with the plug-in and without, in turn, each in a process of its own.

usage: python benchmarks/sdc.py [--width 32] [--rounds 3] [--cases dc-1,dc-10,dm-10,mtt-10,mtt-50]

Random pixels of CIFAR-10 shape. A case is a method and, for dc and dm, the images of a class (256 real ones); for mtt 10 a
class and so many inner steps of 50 images, with a stand-in for its experts. dc-10 has 2 outer steps and 5 inner epochs. The
first iteration, which measures gradient norms, does not count. "rise": by how many MiB the memory of the process rose.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from typing import Any

from apart import apart

ITERATIONS = {"dc-1": 8, "dc-10": 4, "dm-10": 10, "mtt-10": 8, "mtt-50": 3}


def measure(case: str, width: int, weight: float) -> dict[str, Any]:
    """Seconds of an iteration, the median of several, and the rise of memory."""
    import datastill as ds
    from bench import make_task
    from datastill.compute import computing
    from datastill.loop import Loop
    from datastill.plugins.sdc import SDC
    from peers import BATCH, Memory
    kind, _, number = case.partition("-")
    usual: dict[str, Any] = {"iterations": 1000}
    if kind == "mtt":
        method, ipc = ds.MTT(**usual, steps=int(number), batch_syn=BATCH, max_start=2, expert_epochs=2, lr_net=0.01,
                             pool={"count": 1, "epochs": 4}), 10
    else:
        more = {"outer": 2 if number == "10" else 1, "inner": 5} if kind == "dc" else {}
        method, ipc = (ds.DC if kind == "dc" else ds.DM)(**usual, batch_real=256, **more), int(number)
    task = replace(make_task(width, 256), dry_run=True)
    method.prepare(task)
    memory, seconds = Memory(), []
    loop = Loop(method, {"sdc": SDC(weight=weight)} if weight else {}, task, ds.RNG(0), ipc)
    memory.start()
    with computing(task.device):
        for _ in range(ITERATIONS[case] + 1):
            began = time.perf_counter()
            loop.advance()
            seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds[1:]), "rise": memory.rise()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default=",".join(ITERATIONS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], options.width, float(options.one[1]))))
        return
    print("| case | width | without, s | with, s | with / without (range) | rise, MiB, without / with |\n"
          "|---|---|---|---|---|---|")
    for case in options.cases.split(","):
        pairs = []
        for number in range(options.rounds):
            order = ("0", "0.01") if number % 2 else ("0.01", "0")
            found = {weight: apart(__file__, "--width", options.width, "--one", case, weight) for weight in order}
            pairs.append((found["0"], found["0.01"]))
        ratios = sorted(b["seconds"] / a["seconds"] for a, b in pairs)
        middle = [statistics.median(one["seconds"] for one in column) for column in zip(*pairs, strict=True)]
        rise = [statistics.median(one["rise"] for one in column) for column in zip(*pairs, strict=True)]
        print(f"| {case} | {options.width} | {middle[0]:.3g} | {middle[1]:.3g} | **{statistics.median(ratios):.2f}** "
              f"({ratios[0]:.2f} to {ratios[-1]:.2f}) | {rise[0]:.0f} / {rise[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
