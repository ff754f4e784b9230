"""Does ``datastill plan`` tell the truth? What it says beside what a run then takes.

usage: python benchmarks/foresight.py [--widths 32] [--cases dm,dc,dsa,datadam,herding,mtt,mtt-full] [--seconds 60]

Each plan and each run is a process of its own, on random pixels of CIFAR-10 shape. The runs have as many iterations as the
plan expects to take ``--seconds``. A student is trained by the dc protocol without augmentation. Experts are made before the
clock starts, as the plan keeps their time apart.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from typing import Any

from apart import apart
from bench import make_task
from datastill.core import Method
from datastill.description import load
from datastill.nets.convnet import ConvNet
from datastill.plan import plan
from datastill.protocols.dc import DC
from datastill.rng import RNG
from datastill.run import Run
from datastill.running import distill, prepare
from datastill.train import Fixed

REAL, IPC = 128, 10
SEGMENTS = {"steps": 10, "max_start": 1, "expert_epochs": 1, "pool": {"kind": "experts", "count": 1}}
METHODS = {
    "dm": {"kind": "distribution", "batch_real": REAL},
    "datadam": {"kind": "attention", "batch_real": REAL},
    "dc": {"kind": "gradient", "batch_real": REAL, "outer": 3, "inner": 5},
    "dsa": {"kind": "gradient", "batch_real": REAL, "outer": 3, "inner": 5, "augment": "dsa"},
    "mtt": {"kind": "trajectory", **SEGMENTS},
    "mtt-full": {"kind": "trajectory", "gradient": "full", **SEGMENTS},
    "herding": {"kind": "coreset", "choose": "herding", "epochs": 2},
}
PROTOCOL = DC(augment="none")


def described(case: str, width: int, iterations: int) -> Run:
    """The run of a case."""
    more = {} if case == "herding" else {"iterations": iterations}
    return Run(method=load(Method, {**METHODS[case], **more}), network=ConvNet(width=width), ipc=IPC)  # type: ignore[type-abstract]


def foretold(case: str, width: int) -> dict[str, Any]:
    """What plan says of a run of 1000 iterations."""
    run = described(case, width, 1000)
    said = plan(run, make_task(width, REAL).real, PROTOCOL, run.network)
    return {"distill": said.distill, "student": said.student, "memory": said.memory}


def taken(case: str, width: int, iterations: int) -> dict[str, Any]:
    """What such a run takes, and a student after it."""
    run = described(case, width, iterations)
    with tempfile.TemporaryDirectory() as root:
        task = run.task(make_task(width, REAL).real, root=root)
        prepare(run, task)
        began = time.perf_counter()
        synthetic = distill(run, task.real, f"{root}/run", root=root)
        distilled = time.perf_counter() - began
    began = time.perf_counter()
    PROTOCOL.train(task.fresh(RNG(0)), Fixed(synthetic.batch()), RNG(0))
    return {"distill": distilled, "student": time.perf_counter() - began,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def one(case: str, width: str, iterations: int) -> dict[str, Any]:
    """``foretold`` (0 iterations) or ``taken``, in a process of its own."""
    return apart(__file__, "--cases", case, "--widths", width, "--iterations", iterations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="32")
    parser.add_argument("--cases", default=",".join(METHODS))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--iterations", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.iterations is not None:
        case, width = options.cases, int(options.widths)
        print(json.dumps(taken(case, width, options.iterations) if options.iterations else foretold(case, width)))
        return
    print("| case | width | iterations | distill: plan, s | taken, s | ratio | student: plan, s | taken, s | ratio | "
          "memory: plan, MiB | taken, MiB | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for width in options.widths.split(","):
        for case in options.cases.split(","):
            said = one(case, width, 0)
            iterations = 1000 if case == "herding" else max(5, round(1000 * options.seconds / said["distill"]))
            said["distill"] *= iterations / 1000
            was = one(case, width, iterations)
            cells = [f"{said[key]:.1f} | {was[key]:.1f} | {was[key] / said[key]:.2f}" for key in ("distill", "student")]
            memory = f"{said['memory'] / 2**20:.0f} | {was['memory'] / 2**20:.0f} | {was['memory'] / said['memory']:.2f}"
            print(f"| {case} | {width} | {iterations if case != 'herding' else '-'} | {' | '.join(cells)} | {memory} |",
                  flush=True)


if __name__ == "__main__":
    main()
