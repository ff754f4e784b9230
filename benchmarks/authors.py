"""The authors' own scripts and this library on the same work, in turn.

usage: python benchmarks/authors.py PEERS [--data DATA] [--cases dm,dsa,...] [--widths 32,128] [--pairs 3]

PEERS: a folder with checkouts of the scripts (below); DATA: the folder of torchvision's CIFAR-10. MTT's and TESLA's need
kornia and tqdm. Each measurement is a process of its own; one of theirs and one of ours make a pair, in changing order. The
ratio is the median over pairs, with their range. Settings are the published ones (CIFAR-10, ipc 10, 256 real images a
class, DSA augmentation) but for fewer steps: an iteration of DSA has 2 outer steps and 5 inner epochs, one of MTT and TESLA
as many steps of 50 images as the case says; an evaluation is 20 epochs and the whole test set. In dm-bf16 ours computes
features in bfloat16, theirs in float32 as always.

"floor" is what the convolutions alone need here (floor.py). "loss" is the mean matching loss of the timed iterations, whose
draws differ; "rise" how far the memory of the process rose.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from apart import apart

SCRIPTS = {"DatasetCondensation": ("VICO-UoE/DatasetCondensation", "main_DM.py", "53f63a6"),
           "mtt-distillation": ("GeorgeCazenavette/mtt-distillation", "distill.py", "cccd3a6"),
           "tesla": ("justincui03/tesla", "distill.py", "488842e")}
CASES = {"dm": "DatasetCondensation", "dm-bf16": "DatasetCondensation", "dsa": "DatasetCondensation",
         "evaluation": "DatasetCondensation",
         "mtt-10": "mtt-distillation", "mtt-50": "mtt-distillation", "tesla-10": "tesla"}
# Iterations of a measurement.
COUNT = {"dm": 4, "dm-bf16": 4, "dsa": 2, "evaluation": 2, "mtt-10": 3, "mtt-50": 1, "tesla-10": 3}
REAL, SYNTHETIC, TEST = 2560, 100, 10_000  # images


def ours(case: str, width: int, count: int, data: str) -> dict[str, Any]:
    """The same work with the library; as ``peers.Watch.report``."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does
    import torch

    import datastill as ds
    from datastill.compute import computing
    from datastill.data import Batch
    from datastill.loop import Loop
    from datastill.nets import choosing
    from datastill.recipes import read_recipe
    from datastill.rng import RNG
    from peers import BATCH, EPOCHS, IMAGES, INNER, OUTER, Memory
    name, _, steps = case.partition("-")
    changes = {"dm-bf16": ["precision=bfloat16"], "dsa": [f"method.outer={OUTER}", f"method.inner={INNER}"]}.get(case, [])
    if name in ("mtt", "tesla"):
        changes = ["data.zca=false", "method.pool.count=1", "method.pool.epochs=4", "method.max_start=2",
                   "method.expert_epochs=2", f"method.steps={steps}", f"method.batch_syn={BATCH}", "method.lr_net=0.01"]
    recipe = f"{'dm' if name == 'evaluation' else name}/cifar10-ipc10"
    run = read_recipe(recipe, [f"network=convnet:width={width}", *changes]).run
    images = run.data.load(Path(data))
    task = run.task(images.train)
    if name in ("mtt", "tesla"):
        task = replace(task, dry_run=True)  # stand-ins for experts
    run.method.prepare(task)
    loop = None if name == "evaluation" else Loop(run.method, {}, task, RNG(0), run.ipc)
    few = images.train.batch(torch.arange(IMAGES)).x
    synthetic = task.synthetic(Batch(few, torch.eye(10)[torch.arange(IMAGES) // (IMAGES // 10)]))
    seconds, losses, memory = [], [], Memory()
    memory.start()
    # As often as at the published setting, so that passes are measured in the first iteration, which does not count.
    with computing(task.device), choosing(None, repeats=run.method.iterations):
        for _ in range(count + 1):
            began = time.perf_counter()
            if loop is None:
                ds.evaluate(synthetic, f"dc:epochs={EPOCHS - 1}", images.test, network=f"convnet:width={width}", trials=1)
            else:
                losses.append(loop.advance()["method"])
            seconds.append(time.perf_counter() - began)
    return {"seconds": seconds[1:], "losses": losses[1:], "rise": memory.rise()}


def measure(side: str, case: str, width: int, options: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a process of its own. Exits with what it said if it fails."""
    here = Path(__file__).parent
    tail = [case, str(width), str(COUNT[case])]
    if side == "theirs":
        return apart(str(here / "peers.py"), *tail, options.peers, options.data)
    return apart(__file__, options.peers, "--data", options.data, "--ours", *tail)


def least(case: str, width: int) -> float:
    """Seconds of an iteration that the convolutions alone need."""
    from floor import floor
    from peers import BATCH, EPOCHS, INNER, OUTER
    name, _, steps = case.partition("-")
    work = {"dm": {"features": REAL, "pixels": SYNTHETIC},
            "dsa": {"weights": OUTER * REAL + (OUTER - 1) * INNER * SYNTHETIC, "second": OUTER * SYNTHETIC},
            "evaluation": {"weights": EPOCHS * SYNTHETIC, "features": TEST}}.get(name) or {"unroll": int(steps) * BATCH}
    return sum(floor(width)[kind] * images for kind, images in work.items())


def processor() -> str:
    """Name of the processor and its instructions, as far as they matter here."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    if (info := Path("/proc/cpuinfo")).exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            name = value.strip() if key.strip() == "model name" else name
            flags = set(value.split()) if key.strip() == "flags" else flags
    known = ", ".join(one for one in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if one in flags)
    return f"{name} ({known or 'instructions unknown'})"


def check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Check that the scripts and the data are there."""
    for case in options.cases.split(","):
        if case not in CASES:
            parser.error(f"unknown case {case!r}; expected some of {', '.join(CASES)}")
        repository, script, commit = SCRIPTS[CASES[case]]
        if not (Path(options.peers) / CASES[case] / script).exists():
            parser.error(f"{Path(options.peers) / CASES[case] / script} is missing; clone https://github.com/{repository} "
                         f"there, commit {commit}")
    if not (Path(options.data) / "cifar-10-batches-py").is_dir():
        parser.error(f"{options.data} has no cifar-10-batches-py; give torchvision's folder with --data")


def row(case: str, width: int, options: argparse.Namespace) -> str:
    """One line of the table."""
    pairs = []
    for number in range(options.pairs):
        order = ("theirs", "ours") if number % 2 == 0 else ("ours", "theirs")
        found = {side: measure(side, case, width, options) for side in order}
        pairs.append((found["theirs"], found["ours"]))
    columns = [[statistics.median(one["seconds"]) for one in column] for column in zip(*pairs, strict=True)]
    ratios = sorted(a / b for a, b in zip(*columns, strict=True))
    theirs, mine = (", ".join(f"{value:.3g}" for value in column) for column in columns)
    losses = " / ".join(f"{statistics.fmean([v for one in column for v in one['losses']]):.3g}" if column[0]["losses"] and
                        CASES[case] == "DatasetCondensation" and case != "evaluation" else "-"
                        for column in zip(*pairs, strict=True))
    rise = " / ".join(f"{statistics.median(one['rise'] for one in column):.0f}" for column in zip(*pairs, strict=True))
    floor = least(case, width)
    return (f"| {case} | {width} | {theirs} | {mine} | **{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to "
            f"{ratios[-1]:.2f}) | {floor:.3g} | {statistics.median(columns[1]) / floor:.2f} | {losses} | {rise} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers")
    parser.add_argument("--data", default="data")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--widths", default="32,128")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--ours", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        case, width, count = options.ours
        print(json.dumps(ours(case, int(width), int(count), options.data)))
        return
    check(options, parser)
    import torch
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {options.pairs} pairs\n\n"
          "| case | width | theirs, s | ours, s | theirs / ours (range) | floor, s | ours / floor | loss, theirs / ours | "
          "rise, MiB, theirs / ours |\n|---|---|---|---|---|---|---|---|---|")
    for width in map(int, options.widths.split(",")):
        for case in options.cases.split(","):
            print(row(case, width, options), flush=True)


if __name__ == "__main__":
    main()
