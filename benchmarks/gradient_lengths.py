"""How long the exact gradient is, and TESLA's estimate, at the first images of a run, by start epoch of the segment.

usage: python benchmarks/gradient_lengths.py ROOT STUDY [--segments 24] [--data-root data]

For the first arm and seed of a study whose experts are there. Segments, batches and augmentations are the same for both.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from datastill.rng import RNG
from datastill.run import Run
from datastill.studies import load_study
from datastill.study import cells


def gradient(run: Run, task: Any, how: str, number: int) -> tuple[torch.Tensor, float, int]:
    """Of the loss of one segment, drawn by its number, with respect to the images; the loss; the start epoch."""
    method = run.method.model_copy(update={"gradient": how})
    synthetic = method.start(task, run.ipc, RNG(run.seed)("start"))
    images = [parameter.requires_grad_() for parameter in synthetic.images.values()]
    (step,) = method.iterate(method.iterations, synthetic, task, RNG("segment", number))
    found = torch.autograd.grad(step.loss, images)
    return torch.cat([one.flatten() for one in found]), float(step.loss.detach()), int(step.log["start"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("study")
    parser.add_argument("--edition", default="small")
    parser.add_argument("--segments", type=int, default=24)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    options = parser.parse_args()
    study, _ = load_study(options.study, options.edition)
    run = cells(study)[0].read.run
    task = run.task(run.data.load(options.data_root).train, root=options.root, data_root=options.data_root)
    found: dict[int, list[tuple[float, float, float, float]]] = defaultdict(list)
    for number in range(options.segments):
        exact, loss, start = gradient(run, task, "exact", number)
        estimate, _, _ = gradient(run, task, "tesla", number)
        cosine = float(torch.cosine_similarity(exact, estimate, 0))
        found[start].append((loss, float(exact.norm()), float(estimate.norm()), cosine))
    print("| start epoch | segments | loss, median | exact, median (longest) | TESLA's, median (longest) | cosine, median |")
    print("|---|---|---|---|---|---|")
    for start, rows in sorted(found.items()):
        loss, exact, estimate, cosine = zip(*rows, strict=True)
        print(f"| {start} | {len(rows)} | {median(loss):.2f} | {_long(exact)} | {_long(estimate)} | {median(cosine):.2f} |")


def _long(lengths: tuple[float, ...]) -> str:
    return f"{median(lengths):.3f} ({max(lengths):.3f})"


if __name__ == "__main__":
    main()
