"""What a run will take, estimated by running a little of it; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from datastill import memory
from datastill.artifact import tensors_of
from datastill.compute import computing
from datastill.core import Protocol, Task
from datastill.data import Images
from datastill.errors import Stopped
from datastill.late import torch
from datastill.loop import MEASURE, Loop
from datastill.nets import Architecture, fresh
from datastill.progress import Progress
from datastill.rng import RNG
from datastill.run import Run, check_protocol, check_run
from datastill.running import begin, read_start
from datastill.train import Fixed

LONGEST = 8.0  # maximum seconds spent on each part, beyond its first repetitions


@dataclass(frozen=True)
class Plan:
    """Estimated costs. Seconds for one iteration, for the whole distillation and for one student; peak memory and size of
    the finished set in bytes. On a GPU ``memory`` is the GPU's, else that of the whole process."""

    iterations: int
    per_iteration: float
    distill: float
    student: float
    memory: int
    disk: int
    teachers: float = 0.0  # seconds to train the missing ones
    settings: Mapping[str, int] = field(default_factory=dict)  # bytes that settings of the method need beyond the rest
    limit: int = 0  # bytes that they may use on this device


class _Silent(Progress):
    """Drops warnings, which mean nothing in a dry run."""

    def warn(self, text: str) -> None:
        pass


class _Clock(_Silent):
    """Records when each epoch of a dry run ended, and ends the run when that is enough for an estimate."""

    def __init__(self) -> None:
        self.began, self.marks, self.total = time.perf_counter(), list[float](), 1

    def tell(self, done: int, of: int, note: str = "") -> None:
        self.total = of
        self.marks.append(time.perf_counter())
        if done >= 5 and self.marks[-1] - self.began > LONGEST / 2:
            raise Stopped


def plan(run: Run, images: Images, protocol: Protocol, network: Architecture, *, root: Path | str = "outputs",
         data_root: Path | str = "data") -> Plan:
    """Start a run on these training images, run some iterations and some epochs of a student, and extrapolate.

    Raises InputError as distill does.
    """
    task = check_run(run, images, root=root, data_root=data_root)
    check_protocol(run, protocol)
    teachers = sum(pool.seconds(task.context) for pool in run.pools())
    task = replace(task, dry_run=True, progress=_Silent())  # untrained networks take the place of teachers
    if task.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(task.device)
    began = time.perf_counter()
    with computing(task.device, run.precision, run.deterministic):
        loop = begin(run, task, read_start(run, task))
        start = time.perf_counter() - began  # choosing real images may be all the work there is
        disk = sum(t.numel() * t.element_size() for t in tensors_of(loop.result()).values())
        measured, plain = _try_iterations(loop)
    lr = None if loop.synthetic.lr is None else float(loop.synthetic.lr.detach())
    ipc = task.decoded(len(run.rows)) // task.classes
    student = _try_student(task, protocol.for_network(network).for_set(lr), network, ipc)
    every = -(-run.method.iterations // MEASURE)
    total = start + plain * (run.method.iterations - every) + measured * every
    return Plan(run.method.iterations, plain, total, student, memory.peak(task.device), disk, teachers,
                run.method.memory(task, len(run.rows)), int(memory.SHARE * memory.total(task.device)))


def _try_iterations(loop: Loop) -> tuple[float, float]:
    """Seconds of an iteration that measures gradient shares, and of a plain one (the median of several)."""
    if not loop.method.iterations:
        return 0.0, 0.0
    warm = _timed(loop)  # allocations, lazy initialization
    if warm > LONGEST:
        return warm, warm  # an iteration takes so long that the first one is enough
    loop.iteration = 0
    measured = _timed(loop)
    plain: list[float] = []
    while len(plain) < 2 or (sum(plain) < LONGEST and len(plain) < 30):
        loop.iteration = min(1, loop.method.iterations - 1)
        plain.append(_timed(loop))
    return measured, sorted(plain)[len(plain) // 2]


def _timed(loop: Loop) -> float:
    began = time.perf_counter()
    loop.advance()  # reads the loss, so a GPU has finished
    return time.perf_counter() - began


def _try_student(task: Task, protocol: Protocol, network: Architecture, ipc: int) -> float:
    """Seconds to train one student on a set of this size, without scoring it."""
    examples = Fixed(task.random_real(ipc, RNG("plan")))
    net = fresh(network, task.real.shape, task.classes, RNG("plan", "network"), task.device)
    clock = _Clock()
    try:
        protocol.train(net, examples, RNG("plan", "train"), clock)
    except Stopped:
        return (clock.marks[-1] - clock.marks[1]) / (len(clock.marks) - 2) * clock.total
    return time.perf_counter() - clock.began
