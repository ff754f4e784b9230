"""Time and memory of what helps other architectures: MetaDD with one and four teachers, a model pool, GLaD, and nothing.

usage: python benchmarks/architectures.py [--width 32] [--rounds 3] [--cases dm,mtt]

Random pixels of CIFAR-10 shape, 10 images a class: DM with 256 real images of each, MTT with 10 inner steps of 50 images.
The networks are untrained stand-ins. MetaDD's teachers are a ConvNet, ResNet-18, VGG-11 and ViT of this width (ResNet-18
alone, the largest, where there is one), the model pool's the same; GLaD's generator is the one that is trained by default
(width 32). Every measurement in a process of its own, in turn. The first iteration, which measures gradient norms, does not
count for the time. "rise": by how many MiB the memory of the process rose; "peak": its largest, all in all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from typing import Any

from apart import apart

VARIANTS = ("base", "MetaDD, 1 teacher", "MetaDD, 4 teachers", "model pool", "GLaD")
ITERATIONS = 5


def measure(case: str, width: int, variant: str) -> dict[str, Any]:
    """Seconds of an iteration, the median of several, and the rise of memory."""
    import datastill as ds
    from bench import make_task
    from datastill.compute import computing
    from datastill.description import load
    from datastill.loop import Loop
    from datastill.memory import peak
    from datastill.parametrizations.latent import Latent
    from datastill.plugins.metadd import MetaDD
    from peers import BATCH, Memory
    four = [f"convnet:width={width}", f"resnet18:width={width // 2}", f"vgg11:width={width // 2}",
            f"vit:width={2 * width},depth=4"]
    pool: dict[str, Any] = {"networks": four} if variant == "model pool" else {}
    method = ds.DM(iterations=1000, **pool) if case == "dm" else ds.MTT(
        iterations=1000, steps=10, batch_syn=BATCH, max_start=2, expert_epochs=2, lr_net=0.01,
        pool={"count": 1, "epochs": 4, **pool})
    task = replace(make_task(width, 256), dry_run=True)
    if variant == "GLaD":
        task = replace(task, parametrization=Latent())
    plugins = {}
    if variant.startswith("MetaDD"):
        some, variance = (four, 1.0) if "4" in variant else (four[1:2], 0.0)  # a single network has no variance
        plugins["metadd"] = MetaDD(pool=load(ds.Supervised, {"networks": some, "count": 1}), variance=variance)
    memory, seconds = Memory(), []
    loop = Loop(method, plugins, task, ds.RNG(0), 10)
    memory.start()
    with computing(task.device):
        for _ in range(ITERATIONS + 1):
            began = time.perf_counter()
            loop.advance()
            seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds[1:]), "rise": memory.rise(), "peak": peak(task.device) / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="dm,mtt")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], options.width, options.one[1])))
        return
    print("| method | width | variant | an iteration, s (range) | times the base | rise, MiB (range) | times the base | "
          "peak, MiB (range) | times the base |\n|---|---|---|---|---|---|---|---|---|")
    for case in options.cases.split(","):
        found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
        for number in range(options.rounds):
            for variant in VARIANTS if number % 2 else VARIANTS[::-1]:
                found[variant].append(apart(__file__, "--width", options.width, "--one", case, variant))
        for variant in VARIANTS:
            cells = []
            for what, form in (("seconds", ".3g"), ("rise", ".0f"), ("peak", ".0f")):
                own, base = ([one[what] for one in found[name]] for name in (variant, "base"))
                cells.append(f"{statistics.median(own):{form}} ({min(own):{form}} to {max(own):{form}})")
                cells.append(f"{statistics.median(own) / statistics.median(base):.2f}")
            print(f"| {case} | {options.width} | {variant} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
