"""Is the measured form of a pass close to the best one? The choice is repeated, and held against all measurements together.

usage: python benchmarks/forms.py [--width 32] [--images 256] [--repeats 10] [--compile]

CIFAR-10 shape. For each kind of pass: how many of the choices are within 5 % of the form whose median over all repeats is
lowest. A choice that was refused because the machine was too busy counts as the usual form.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict

import torch

from authors import processor
from datastill.memory import keep_freed
from datastill.nets import chunk_size, fresh
from datastill.nets._timing import choose
from datastill.nets.convnet import ConvNet
from datastill.nets.forms import Form
from datastill.rng import RNG


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in (("width", 32), ("images", 256), ("repeats", 10)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    keep_freed()
    net = fresh(ConvNet(width=options.width), (3, 32, 32), 10, RNG("network"), torch.device("cpu"))
    x = RNG("images").normal(options.images, 3, 32, 32)
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, width {options.width}, "
          f"{options.images} images, {options.repeats} repeats\n")
    print("| pass | usual form, ms | best form | best, ms | choices within 5 % of it |\n|---|---|---|---|---|")
    for kind in ("features", "pixels", "weights", "second"):
        usual = Form(chunk=chunk_size(net, x, twice=kind == "second"))
        found, seconds = list[Form](), defaultdict[str, list[float]](list)
        for _ in range(options.repeats):
            form, timed = choose(net, x, kind, usual, options.compile)  # type: ignore[arg-type]
            found.append(form)
            for name, value in (timed or {}).items():
                seconds[name].append(value)
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        best = min(middle, key=lambda name: middle[name])
        good = sum(middle[str(form)] <= 1.05 * middle[best] for form in found)
        print(f"| {kind} | {1000 * middle[str(usual)]:.4g} | {best} | {1000 * middle[best]:.4g} | {good} of {len(found)} |",
              flush=True)


if __name__ == "__main__":
    main()
