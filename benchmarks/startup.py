"""How long the command line takes before it computes anything: names, help, and refusals that need no data.

    python benchmarks/startup.py [--runs 5]

Wall and processor seconds, the median of several runs of each command in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time

COMMANDS = ["--help", "list methods", "list networks", "list recipes", "show mtt", "show dm/cifar10-ipc10",
            "distill nosuch", "distill dm/cifar10-ipc10 method.iteration=5", "evaluate nowhere", "import datastill"]


def timed(command: str) -> tuple[float, float]:
    """(wall, processor) seconds of one run."""
    asked = ["-c", command] if command.startswith("import") else ["-m", "datastill", *command.split()]
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *asked], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = os.times()
    return (time.perf_counter() - began,
            after.children_user + after.children_system - before.children_user - before.children_system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
          f"median of {runs}")
    print("| command | wall, s | processor, s |\n|---|---|---|")
    for command in COMMANDS:
        wall, processor = (statistics.median(values) for values in zip(*(timed(command) for _ in range(runs)), strict=True))
        print(f"| `{command}` | {wall:.2f} | {processor:.2f} |")


if __name__ == "__main__":
    main()
