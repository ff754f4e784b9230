"""What the same time buys with the exact gradient and with another: curves of the true matching loss and of students.

usage: python benchmarks/equal_time.py ROOT STUDY [--segments 40] [--trials 2] [--data-root data]

For a finished study (``datastill study STUDY --root ROOT``) whose arms take about the same time. Every snapshot of every run
is asked for its matching loss on the same segments, batches and augmentations, drawn once and used for no training, and
for students under the protocol (kept with the runs). Means over seeds; the last arm against the first, paired by seed.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from datastill import artifact
from datastill.checkpoint import read_log
from datastill.rng import RNG
from datastill.run import Run
from datastill.scoring import Evaluation
from datastill.selection import select
from datastill.statistics import statistics
from datastill.studies import load_study
from datastill.study import cells


def true_loss(run: Run, task: Any, tensors: dict[str, torch.Tensor], segments: int) -> float:
    """Mean matching loss of one snapshot over segments that are the same for all."""
    synthetic = artifact.restored(tensors, task.real, run.parametrization)
    values = []
    for number in range(segments):
        (step,) = run.method.iterate(run.method.iterations, synthetic, task, RNG("probe", number))
        values.append(float(step.loss.detach()))
    return statistics(values)["mean"]


def seconds(folder: Path) -> float:
    """From the first to the last iteration, going by the median of what one took: pauses do not count."""
    times = torch.tensor([line["time"] for line in read_log(folder)], dtype=torch.float64)
    return float((times[1:] - times[:-1]).median() * (len(times) - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("study")
    parser.add_argument("--edition", default="small")
    parser.add_argument("--segments", type=int, default=40)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    options = parser.parse_args()
    study, _ = load_study(options.study, options.edition)
    losses: dict[tuple[str, int], list[float]] = defaultdict(list)
    accuracies: dict[tuple[str, int], list[float]] = defaultdict(list)
    took: dict[str, list[float]] = defaultdict(list)
    iterations: dict[str, int] = {}
    for cell in cells(study):
        run, protocol = cell.read.run, cell.read.protocol
        splits = run.data.load(options.data_root)
        task = run.task(splits.train, root=options.root, data_root=options.data_root)
        folder = options.root / "runs" / run.label(splits.train, options.data_root)
        distilled, images = artifact.load(folder), splits.validation if study.split == "validation" else splits.test
        assert images is not None
        evaluation = Evaluation(protocol, run.network, splits.train, images, study.split, cell.seed)
        chosen = select(folder, distilled, evaluation, trials=options.trials)
        for place, path in enumerate(sorted((folder / "snapshots").glob("*.safetensors"))):
            losses[cell.arm, place].append(true_loss(run, task, artifact.read_tensors(path), options.segments))
            accuracies[cell.arm, place].append(list(chosen["means"].values())[place])
        took[cell.arm].append(seconds(folder))
        iterations[cell.arm] = run.method.iterations
    arms, places = list(iterations), sorted({place for _, place in losses})
    print("| arm | iterations | seconds, median iteration x number |\n|---|---|---|")
    for arm in arms:
        print(f"| {arm} | {iterations[arm]} | {_spread(took[arm], 1, 0)} |")
    heads = [f"{what}, {arm}" for what in ("matching loss", "accuracy %") for arm in arms]
    print(f"\n| share of the time | {' | '.join(heads)} | loss, paired | accuracy, paired |")
    print("|" + "---|" * (len(heads) + 3))
    for place in places:
        row = [_spread(losses[arm, place], 1, 4) for arm in arms] + [_spread(accuracies[arm, place], 100, 1) for arm in arms]
        paired = [_paired(of[arms[-1], place], of[arms[0], place], scale, digits)
                  for of, scale, digits in ((losses, 1, 4), (accuracies, 100, 1))]
        print(f"| {place / places[-1]:.2f} | {' | '.join(row + paired)} |")


def _spread(values: list[float], scale: float, digits: int) -> str:
    found = statistics(values)
    return f"{scale * found['mean']:.{digits}f} ± {scale * found['std']:.{digits}f}"


def _paired(last: list[float], first: list[float], scale: float, digits: int) -> str:
    found = statistics([a - b for a, b in zip(last, first, strict=True)])
    interval = f" ({scale * found['low']:+.{digits}f} to {scale * found['high']:+.{digits}f})" if found["n"] > 1 else ""
    return f"{scale * found['mean']:+.{digits}f}{interval}"


if __name__ == "__main__":
    main()
