"""Sets distilled by the authors' ``main_DM.py`` and by this library, scored by the same students.

usage: python benchmarks/authors_accuracy.py PEERS [--data DATA] [--iterations 500] [--width 32] [--seeds 3] [--trials 5]

PEERS and DATA as for authors.py. CIFAR-10, ipc 10, everything else as published. Each seed gives one set of each side; the
students of a trial start from the same weights whatever they are trained on, so differences are paired by trial.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

NAME = "res_DM_CIFAR10_ConvNet_10ipc.pt"  # what the script saves at its last iteration
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # its normalization


def theirs(options: argparse.Namespace) -> None:
    """Run the script in this process, in the working folder."""
    from peers import Watch, condensation

    class Silent(Watch):
        def tick(self) -> None:
            """Takes no times and never stops."""

    torch.manual_seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002 - it is what the script draws from
    random.seed(options.seed)
    sys.path.insert(0, str(Path(options.peers) / "DatasetCondensation"))
    count = f"--Iteration={options.iterations}"
    with Path(os.devnull).open("w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
        condensation("dm", options.width, Silent(0, 0), options.data, [count])


def images(options: argparse.Namespace, seed: int) -> torch.Tensor:
    """The script's images, (100, 3, 32, 32) in class order, as values from 0 to 1."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).absolute()), options.peers, "--data", options.data, "--seed",
                   str(seed), "--iterations", str(options.iterations), "--width", str(options.width)]
        subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
        ((found, label),) = torch.load(Path(folder) / NAME, weights_only=False)["data"]
    assert label.tolist() == sorted(label.tolist())
    return found.detach() * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


def sets(options: argparse.Namespace, seed: int, train: Any) -> dict[str, Any]:
    """The two sets, as synthetic sets for these training images."""
    import datastill as ds
    from datastill.data import Batch
    from datastill.recipes import read_recipe
    changes = [f"network=convnet:width={options.width}", f"method.iterations={options.iterations}", f"seed={seed}"]
    run = read_recipe("dm/cifar10-ipc10", changes).run
    with tempfile.TemporaryDirectory() as folder:
        mine = ds.distill(run, train, Path(folder) / "set").batch()
    mean, std = (torch.tensor(one)[:, None, None] for one in (train.mean, train.std))
    labels, synthetic = torch.eye(10).repeat_interleave(10, 0), run.task(train).synthetic
    return {"theirs": synthetic(Batch((images(options, seed) - mean) / std, labels)),
            "ours": synthetic(Batch(mine.x, labels))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=os.path.abspath)
    parser.add_argument("--data", default="data", type=os.path.abspath)
    for name, number in (("iterations", 500), ("width", 32), ("seeds", 3), ("trials", 5)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.seed is not None:
        theirs(options)
        return
    import datastill as ds
    from datastill.statistics import statistics
    splits = ds.Data(source="cifar10").load(Path(options.data))
    found: dict[str, list[float]] = {"theirs": [], "ours": []}
    for seed in range(options.seeds):
        for side, one in sets(options, seed, splits.train).items():
            scores = ds.evaluate(one, "dc:augment=dsa", splits.test, network=f"convnet:width={options.width}",
                                 trials=options.trials)
            found[side] += [100 * one.accuracy for one in scores]
            print(f"seed {seed}, {side}: {', '.join(f'{value:.1f}' for value in found[side][-options.trials:])}", flush=True)
    for side, values in found.items():
        about = statistics(values)
        print(f"{side}: {about['mean']:.1f} ± {about['std']:.1f} ({about['n']} students)")
    about = statistics([a - b for a, b in zip(found["ours"], found["theirs"], strict=True)])
    interval = f" ({about['low']:+.1f} to {about['high']:+.1f}, 95 %)" if "low" in about else ""
    print(f"ours - theirs: {about['mean']:+.1f}{interval}")


if __name__ == "__main__":
    main()
