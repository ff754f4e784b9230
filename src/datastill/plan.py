"""What a run will take, estimated by running a little of it; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from datastill import memory
from datastill.artifact import tensors_of
from datastill.compute import computing
from datastill.core import Protocol
from datastill.data import Images
from datastill.errors import Stopped
from datastill.late import torch
from datastill.loop import MEASURE, Loop
from datastill.nets import Architecture, choosing, fresh
from datastill.nets.choices import SPEED
from datastill.previous import Previous
from datastill.progress import Progress
from datastill.rng import RNG
from datastill.run import Run, check_protocol, check_run
from datastill.running import begin, read_start
from datastill.task import Task
from datastill.train import Fixed, extrapolated

LONGEST = 8.0  # maximum seconds spent on each part, beyond its first repetitions
AFFORDABLE = 20.0  # maximum seconds of an iteration that is tried as a whole


@dataclass(frozen=True)
class Plan:
    """Estimated costs. Seconds for one iteration, for the whole distillation and for one student; peak memory and size of
    the finished set in bytes. On a GPU ``memory`` is the GPU's, else that of the whole process. ``rough``: extrapolated from
    a small part of an iteration, which needs less memory than a whole one. ``speed``: forms of passes that are not the usual
    ones (``nets.choices``)."""

    iterations: int
    per_iteration: float
    distill: float
    student: float
    memory: int
    disk: int
    teachers: float = 0.0  # seconds to train the missing ones
    settings: Mapping[str, int] = field(default_factory=dict)  # bytes that settings of the method need beyond the rest
    limit: int = 0  # bytes that they may use on this device
    rough: bool = False
    speed: Mapping[str, str] = field(default_factory=dict)


class _Silent(Progress):
    """Drops warnings, which mean nothing in a dry run."""

    def warn(self, text: str) -> None:
        pass


class _Clock(_Silent):
    """Records when each epoch of a dry run ended, and ends the run when that is enough for an estimate."""

    def __init__(self, longest: float) -> None:
        self.longest, self.began, self.marks, self.total = longest, time.perf_counter(), list[float](), 1

    def tell(self, done: int, of: int, note: str = "") -> None:
        self.total = of
        self.marks.append(time.perf_counter())
        if done >= 3 and self.marks[-1] - self.began > self.longest:
            raise Stopped


def plan(run: Run, images: Images, protocol: Protocol, network: Architecture, *, root: Path | str = "outputs",
         data_root: Path | str = "data", progress: Progress = Progress(),
         first: Callable[[Plan], None] = lambda plan: None, portable: bool = False) -> Plan:
    """Start a run on these training images, try a part of an iteration and some epochs of a student, and extrapolate; then
    from whole iterations, unless a single one would take too long. Raises InputError as distill does.

    first: is given the rough estimate, which does not count teachers, as soon as there is one. portable: as in ``distill``.
    """
    with choosing(Path(root) / SPEED, repeats=run.method.iterations, portable=portable, keep=False) as choices:
        found = _plan(run, images, protocol, network, root, data_root, progress, first)
    return replace(found, speed=choices.facts.get("speed", {}))


def _plan(run: Run, images: Images, protocol: Protocol, network: Architecture, root: Path | str, data_root: Path | str,
          progress: Progress, first: Callable[[Plan], None]) -> Plan:
    progress.tell(0, 4, "checking")
    task = check_run(run, images, root=root, data_root=data_root)
    check_protocol(run, protocol)
    context = task.context
    protocol.for_method(run.method, run.network).check(context, network)
    task = replace(task, dry_run=True, progress=_Silent())  # untrained networks take the place of teachers
    if task.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(task.device)
    progress.tell(1, 4, "a part of an iteration")
    method, part, longer = run.method.rehearsal(task, len(run.rows))
    small = replace(task, real=part, some=None)
    start, measured, plain, disk = _try(run.model_copy(update={"method": method}), small, quick=True)
    progress.tell(2, 4, "a student")
    student = student_seconds(run, task, protocol, network)
    count, limit = run.method.iterations, int(memory.SHARE * memory.total(task.device))
    rough = Plan(count, plain * longer, (start + count * plain) * longer, student, memory.peak(task.device),
                 disk * task.classes // len(part.classes), 0.0, run.method.memory(task, len(run.rows)), limit, rough=True)
    first(rough)
    progress.tell(3, 4, "teachers, whole iterations")
    pools = {*run.pools(), *protocol.for_method(run.method, run.network).pools(network)}
    rough = replace(rough, teachers=sum(pool.seconds(context) for pool in pools) + run.parametrization.seconds(task))
    if max(start, measured) * longer > AFFORDABLE:
        return rough
    start, measured, plain, disk = _try(run, task, read_start(run, task))
    every = -(-count // MEASURE)
    total = start + plain * (count - every) + measured * every
    return replace(rough, per_iteration=plain, distill=total, memory=memory.peak(task.device), disk=disk, rough=False)


def _try(run: Run, task: Task, previous: Previous | None = None, quick: bool = False) -> tuple[float, float, float, int]:
    """Seconds to start a run, of an iteration that measures gradient shares, and of a plain one; bytes of the set."""
    began = time.perf_counter()
    with computing(task.device, run.precision, run.deterministic):
        loop = begin(run, task, previous)
        start = time.perf_counter() - began  # choosing real images may be all the work there is
        disk = sum(t.numel() * t.element_size() for t in tensors_of(loop.result()).values())
        return start, *_try_iterations(loop, quick), disk


def _try_iterations(loop: Loop, quick: bool) -> tuple[float, float]:
    """Seconds of an iteration that measures gradient shares, and of a plain one (the median of several)."""
    if not loop.method.iterations:
        return 0.0, 0.0
    if quick:
        loop.iteration = min(1, loop.method.iterations - 1)  # the first measures gradient shares, which takes as long again
    warm = _timed(loop)  # allocations, lazy initialization
    if warm > LONGEST / 2:
        return warm, warm  # an iteration takes so long that the first one is enough
    loop.iteration = 0
    measured = 0.0 if quick else _timed(loop)
    plain: list[float] = []
    while len(plain) < 2 - quick or (sum(plain) < LONGEST / (8 if quick else 1) and len(plain) < 30):
        loop.iteration = min(1, loop.method.iterations - 1)
        plain.append(_timed(loop))
    middle = sorted(plain)[len(plain) // 2]
    return measured or middle, middle


def _timed(loop: Loop) -> float:
    began = time.perf_counter()
    loop.advance()  # reads the loss, so a GPU has finished
    return time.perf_counter() - began


def student_seconds(run: Run, task: Task, protocol: Protocol, network: Architecture) -> float:
    """Seconds to train one student on a set of this run's size, without scoring it."""
    lr = 1.0 if run.method.has_learned_lr else None
    protocol = protocol.for_method(run.method, run.network).for_network(network).for_set(lr)
    images, context = task.decoded(len(run.rows)), replace(task.context, dry_run=True)

    def train(count: int) -> float:
        fixed = Fixed(task.real.batch(torch.arange(count) % len(task.real)))
        examples = protocol.shown(fixed, context, network, RNG("plan", "labels"))
        net = fresh(network, task.real.shape, task.classes, RNG("plan", "network"), task.device)
        clock = _Clock(LONGEST / (2 if count == images else 16))
        try:
            protocol.train(net, examples, RNG("plan", "train"), clock)
        except Stopped:
            return (clock.marks[-1] - clock.marks[1]) / (len(clock.marks) - 2) * clock.total
        return time.perf_counter() - clock.began

    return extrapolated(train, images, LONGEST)
