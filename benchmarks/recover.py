"""What recovery and stored labels cost beside the bare work of the teacher.

usage: python benchmarks/recover.py [--width 64] [--batch 100] [--rounds 3] [--gigabytes 1] [--folder DIR]

Random pixels of CIFAR-10 shape, ResNet-18 with batch normalization, freed memory kept as in every run (memory.keep_freed).

recover: an iteration of SRe2L on one pass (crops, mirrored, shifted, statistics, Adam, clamping, log) beside a forward and
a backward pass of the same network on the same batch.
relabel: an epoch of labels (views with CutMix, half precision, checksums, files) beside the teacher's forward pass on the
same batches. In turn; ratios are medians over rounds with their range.
read: milliseconds of a batch of 100 from a store of so many gigabytes with 1000 classes, in random order: the first
reading of an epoch, which verifies it, and any later one. The store is made of random numbers in a temporary folder.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import datastill as ds
from authors import processor
from bench import make_task
from datastill.data.domain import domain_of
from datastill.digest import dump
from datastill.label_store import Labels, files_of, forecast, make_labels
from datastill.loop import Loop
from datastill.memory import keep_freed
from datastill.methods.recover import Recover
from datastill.nets import passes
from datastill.nets.resnet18 import ResNet18
from datastill.relabel import Relabel, Schedule, Views
from datastill.rng import RNG
from datastill.rows import RowWriter
from datastill.store import Entry
from datastill.teachers import Context, Teachers
from datastill.train import Fixed

EPOCHS, BATCHES, CLASSES = 2, 5, 1000


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compared(name: str, ours: Callable[[], object], bare: Callable[[], object], rounds: int, per: int = 1) -> None:
    """Time both in turn and print a row."""
    ours(), bare()  # warm
    pairs = []
    for number in range(rounds):
        order = (ours, bare) if number % 2 else (bare, ours)
        found = {id(work): timed(work) for work in order}
        pairs.append((found[id(ours)] / per, found[id(bare)] / per))
    ratios = sorted(a / b for a, b in pairs)
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"| {name} | {a:.3g} | {b:.3g} | **{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f}) |",
          flush=True)


def recovery(width: int, batch: int, rounds: int) -> None:
    """An iteration of recovery beside forward and backward."""
    task = make_task(width, 256)
    network = ResNet18(width=width, norm="batch")
    task = replace(task, network=network, dry_run=True, real=replace(task.real, classes=tuple(map(str, range(batch))),
                                                                     targets=torch.arange(len(task.real)) % batch))
    loop = Loop(Recover(iterations=10**6, batch_size=batch), {}, task, RNG(0), 1)
    loop.iteration = 1  # the first of every 100 measures gradients for the log
    x = loop.synthetic.decode().detach().clone().requires_grad_()
    net, y = task.teachers(loop.method.pool)[0].network, torch.arange(batch)  # type: ignore[attr-defined]

    def bare() -> None:
        torch.autograd.grad(torch.nn.functional.cross_entropy(net(x), y), x)

    compared(f"recover, width {width}, batch {batch}", loop.advance, bare, rounds)


def relabeling(width: int, batch: int, rounds: int) -> None:
    """An epoch of stored labels beside the teacher's forward pass on as many images."""
    task = make_task(width, 256)
    task = replace(task, network=ResNet18(width=width, norm="batch"), dry_run=True)
    pool = Recover().pool.for_network(task.network)
    teachers = Teachers(pool, Context(task.real, Path("nowhere"), Path("nowhere"), dry_run=True))
    teacher, count = teachers[0], BATCHES * batch
    examples = Fixed(ds.Batch(RNG(1).normal(count, 3, 32, 32), torch.eye(10)[torch.arange(count) % 10]))
    schedule = Schedule(Views(), Relabel(store=True), batch, EPOCHS)
    pool_facts = type(pool).facts
    type(pool).facts = lambda self, context: []  # type: ignore[method-assign]  stand-ins have none

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            make_labels(Path(folder) / "labels", "set", examples, schedule, pool, teachers, RNG(0))

    @torch.no_grad()
    def bare() -> None:
        for _ in range(EPOCHS):
            for x in examples.x.split(batch):
                how = passes(teacher.network, x, "features")
                for (part,) in how.split(x):
                    how.logits(part)

    assert domain_of(task.real).looks_like(teacher.domain)
    compared(f"relabel, width {width}, batch {batch}", ours, bare, rounds, EPOCHS * BATCHES)
    type(pool).facts = pool_facts  # type: ignore[method-assign]


def reading(gigabytes: float, folder: Path) -> None:
    """Milliseconds to read a batch from a large store."""
    count, batch = 10_000, 100
    one = Schedule(Views(), Relabel(store=True), batch, 1)
    epochs = max(1, round(gigabytes * 1e9 / forecast(one, count, CLASSES)))
    schedule = one._replace(epochs=epochs)
    wanted, sums = files_of(schedule, count, CLASSES), {}
    generator = np.random.default_rng(0)
    for name, form in wanted.items():
        writer = RowWriter(folder / f"{name}.npy", form, goes_on=False)
        sums[name] = [writer.write(epoch, (generator.random(form.shape) * 90).astype(form.dtype))
                      for epoch in range(epochs)]
        writer.close()
    Entry(folder, "again").finish({"kind": "datastill.labels", "images": "set", "epochs": epochs, "classes": CLASSES,
                                   "widths": schedule.widths(count), "views": dump(schedule.views),
                                   "relabel": dump(schedule.relabel), "sums": sums})
    labels = Labels.read(folder)
    order = [(int(e), int(n)) for e, n in zip(generator.integers(epochs, size=300),
                                              generator.integers(count // batch, size=300), strict=True)]
    first = [timed(lambda e=epoch: labels.batch(e, 0)) for epoch in range(epochs)]
    later = [timed(lambda e=epoch, n=number: labels.batch(e, n)) for epoch, number in order]
    print(f"\nread, {labels.nbytes / 1e9:.2f} GB, {epochs} epochs of {count} images, {CLASSES} classes: "
          f"{1e3 * statistics.median(later):.2f} ms a batch of {batch} (95 % below {1e3 * sorted(later)[284]:.2f} ms); "
          f"the first of an epoch {1e3 * statistics.median(first):.0f} ms; forecast "
          f"{forecast(schedule, count, CLASSES) / 1e9:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--folder", help="where the large store is made for a while; default: the system's temporary folder")
    options = parser.parse_args()
    keep_freed()
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| work | ours, s | bare, s | ours / bare (range) |\n|---|---|---|---|")
    recovery(options.width, options.batch, options.rounds)
    relabeling(options.width, options.batch, options.rounds)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        reading(options.gigabytes, Path(folder))


if __name__ == "__main__":
    main()
