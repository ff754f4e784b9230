"""How hard the finished sets of a study are at the networks on which their own methods match them.

usage: python benchmarks/own_difficulty.py RESULTS [--root outputs] [--data-root data] [--arm sdc] [--networks 5]

RESULTS: results.json of a study whose runs lie under the root. The gradient norm of every image is taken at the networks of
the first iterations, the same in both arms; changes are paired by seed, of geometric means.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

import datastill as ds
from datastill import artifact
from datastill.analysis.difficulty import at_its_network
from datastill.run import read_run
from datastill.statistics import difference


def norm(folder: Path, place: ds.Workspace, networks: int) -> float:
    """Mean gradient norm of a finished set at the networks of the first iterations of its run."""
    run = read_run(folder)
    task, paths = place.task(run), artifact.snapshots(folder)
    tensors = artifact.read_snapshot(paths[max(paths)], artifact.read_card(folder))
    return float(np.mean([at_its_network(run, task, number, tensors) for number in range(networks)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--root", type=Path, default=Path("outputs"))
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--arm", default="sdc")
    parser.add_argument("--networks", type=int, default=5)
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    place, against = ds.Workspace(options.root, options.data_root, "cpu"), results["against"]
    found = {(one["recipe"], one["arm"], one["seed"]): norm(options.root / "runs" / one["folder"], place, options.networks)
             for one in results["runs"] if one["arm"] in (options.arm, against)}
    print(f"| recipe | {against} | {options.arm} | change, % | 95 % interval | by seed | verdict |\n" + "|---" * 7 + "|")
    for recipe in dict.fromkeys(recipe for recipe, _, _ in found):
        mine, other = ([found[recipe, arm, seed] for seed in results["seeds"]] for arm in (options.arm, against))
        one = difference([math.log(a / b) for a, b in zip(mine, other, strict=True)])
        mean, low, high = (f"{100 * math.expm1(one[key]):+.1f}" for key in ("mean", "low", "high"))
        seeds = ", ".join(f"{100 * math.expm1(value):+.1f}" for value in one["values"])
        verdict = "not decided" if not one["decided"] else "falls" if one["mean"] < 0 else "rises"
        print(f"| {recipe} | {np.mean(other):.3g} | {np.mean(mine):.3g} | **{mean}** | {low} to {high} | {seeds} | "
              f"{verdict} |")


if __name__ == "__main__":
    main()
