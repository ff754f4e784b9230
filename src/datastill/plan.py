"""What a run will take, found by doing a little of it: nothing is written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from datastill import memory
from datastill.artifact import tensors_of
from datastill.compute import computing
from datastill.core import Protocol, Task
from datastill.loop import MEASURE, Loop
from datastill.nets import Architecture, fresh
from datastill.rng import RNG
from datastill.run import Run, check, check_protocol, label
from datastill.train import Fixed

LONGEST = 8.0  # seconds spent at most on each part, beyond its first repetitions


@dataclass(frozen=True)
class Plan:
    """Expected costs. Seconds of one iteration and of the whole distillation, of one student; peak memory and size of the
    finished set in bytes. On a GPU ``memory`` is the GPU's, else that of the whole process."""

    iterations: int
    per_iteration: float
    distill: float
    student: float
    memory: int
    disk: int
    teachers: float = 0.0  # seconds to train those that are missing
    settings: Mapping[str, int] = field(default_factory=dict)  # bytes that settings of the method need beyond the rest
    limit: int = 0  # bytes that they may take on this device


class _Enough(Exception):
    """Ends a dry run."""


def plan(run: Run, task: Task, protocol: Protocol, network: Architecture) -> Plan:
    """Start a run, run some iterations and some epochs of a student, and extrapolate.

    Raises InputError as distill does.
    """
    check(run, task)
    check_protocol(run, protocol)
    teachers = sum(pool.seconds(task.context) for pool in run.pools())
    task = replace(task, dry_run=True)  # untrained networks take the place of teachers
    if task.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(task.device)
    began = time.perf_counter()
    with computing(task.device, run.precision, run.deterministic):
        loop = Loop(run.method, {label(p): p for p in run.plugins}, task, RNG(run.seed), run.ipc)
        start = time.perf_counter() - began  # choosing real images may be all there is to do
        disk = sum(t.numel() * t.element_size() for t in tensors_of(loop.result()).values())
        measured, plain = _try_iterations(loop)
    lr = None if loop.synthetic.lr is None else float(loop.synthetic.lr.detach())
    student = _try_student(task, protocol.for_network(network).for_set(lr), network, run.ipc)
    every = -(-run.method.iterations // MEASURE)
    total = start + plain * (run.method.iterations - every) + measured * every
    return Plan(run.method.iterations, plain, total, student, memory.peak(task.device), disk, teachers,
                run.method.memory(task, run.ipc), int(memory.SHARE * memory.total(task.device)))


def _try_iterations(loop: Loop) -> tuple[float, float]:
    """Seconds of an iteration that measures gradient shares, and of a plain one (the median of several)."""
    if not loop.method.iterations:
        return 0.0, 0.0
    warm = _timed(loop)  # allocations, lazy initialization
    if warm > LONGEST:
        return warm, warm  # so long an iteration that the first one tells
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
    began = time.perf_counter()
    marks: list[float] = []
    total = 1

    def watch(epoch: int, epochs: int) -> None:
        nonlocal total
        total = epochs
        marks.append(time.perf_counter())
        if epoch >= 5 and marks[-1] - began > LONGEST / 2:
            raise _Enough

    try:
        protocol.train(net, examples, RNG("plan", "train"), watch)
    except _Enough:
        return (marks[-1] - marks[1]) / (len(marks) - 2) * total
    return time.perf_counter() - began
