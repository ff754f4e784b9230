"""Labels stored beside a set: once for every view that students will see, in a folder that can be read in any order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datastill.data import Batch
from datastill.description import load
from datastill.digest import digest, dump
from datastill.errors import InputError, RunError
from datastill.files import reason
from datastill.functional.mixing import Mix
from datastill.functional.views import View, shown
from datastill.late import torch
from datastill.progress import Progress
from datastill.relabel import Relabel, Schedule, Views, label, spread, turns
from datastill.rng import RNG
from datastill.rows import Form, RowReader, RowWriter, check_written
from datastill.store import Entry, read_record, write_record
from datastill.teachers import Pool, Teacher, Teachers
from datastill.train import Examples

if TYPE_CHECKING:
    from torch import Tensor

EVERY = 20.0  # seconds between checkpoints
STATE = "state.json"


def files(views: Views, relabel: Relabel, epochs: int, widths: Sequence[int], classes: int) -> dict[str, Form]:
    """The files of a store by name: a row for each of so many epochs, whose batches have these widths, of so many
    classes."""
    count, batches = sum(widths), len(widths)
    top = relabel.top if 0 < relabel.top < classes else 0
    found: dict[str, tuple[tuple[int, ...], str]] = {
        "rows": ((count,), "<i4"),
        **({"strips": ((count, 2 * views.strips), "|u1")} if views.strips > 1 else {}),
        **({"boxes": ((count, 4), "<i2")} if views.window != "none" else {}),
        **({"flips": ((count,), "|b1")} if views.flip else {}),
        **({"order": ((count,), "<i4"), "share": ((batches,), "<f8")} if views.mix != "none" else {}),
        **({"mixed": ((batches, 4), "<i2")} if views.mix == "cutmix" else {}),
        **({"which": ((count, top), "<i2" if classes < 2**15 else "<i4")} if top else {}),
        "logits": ((count, top or classes), "<f2")}
    return {name: Form(epochs, *one) for name, one in found.items()}


def files_of(schedule: Schedule, count: int, classes: int) -> dict[str, Form]:
    """The files of a store for ``count`` images."""
    return files(schedule.views, schedule.relabel, schedule.stored, schedule.widths(count), classes)


def forecast(schedule: Schedule, count: int, classes: int) -> int:
    """Bytes of a store."""
    return sum(one.size for one in files_of(schedule, count, classes).values())


@dataclass(frozen=True, eq=False)
class Labels:
    """A finished store of labels, readable in any order: ``batch(epoch, number)``.

    It is a folder with a card and a .npy file for each kind of thing, of which row e is epoch e: ``rows`` (which images, in
    the order of the batches), ``boxes``, ``flips``, ``strips``, ``order``, ``share`` and ``mixed`` (how they are shown),
    ``logits`` in half precision, and ``which`` classes they are of if only the largest are stored.
    """

    folder: Path
    card: Mapping[str, Any]
    columns: Mapping[str, RowReader]

    @classmethod
    def read(cls, folder: Path | str, images: str | None = None) -> Labels:
        """The store in a folder; ``images``: the checksum of the set it has to be of. Raises InputError: missing,
        unfinished or damaged, or the labels of another set."""
        folder = Path(folder)
        again = f"delete {folder} to label again"
        card = Entry(folder, again).card()
        if card.get("kind") != "datastill.labels":
            raise InputError(f"{folder} holds no labels; expected a folder made by datastill relabel")
        if images is not None and card["images"] != images:
            raise InputError(f"{folder} holds the labels of another set (its images have the checksum {card['images'][:12]}"
                             f", these {images[:12]}); {again}")
        forms = files(load(Views, card["views"]), load(Relabel, card["relabel"]), card["epochs"], card["widths"],
                      card["classes"])
        return cls(folder, card, {name: RowReader(folder / f"{name}.npy", forms[name], sums, again)
                                  for name, sums in card["sums"].items()})

    @property
    def epochs(self) -> int:
        """How many epochs there are labels for."""
        return int(self.card["epochs"])

    @property
    def nbytes(self) -> int:
        """Size of the labels and of what they belong to, without the card."""
        return sum((self.folder / f"{name}.npy").stat().st_size for name in self.columns)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.card["widths"])

    def batch(self, epoch: int, number: int) -> tuple[Tensor, View, Tensor]:
        """(rows of the set (B,), how they are shown, logits (B, K); -inf for classes that have no share) of a batch."""
        widths = self.card["widths"]
        start = sum(widths[:number])
        part = slice(start, start + widths[number])

        def of(name: str) -> Tensor | None:
            return torch.from_numpy(np.array(self.columns[name][epoch][part])) if name in self.columns else None

        rows, boxes, order = of("rows"), of("boxes"), of("order")
        mix = None
        if order is not None:
            box = [int(v) for v in self.columns["mixed"][epoch][number]] if "mixed" in self.columns else None
            mix = Mix(order.long(), float(self.columns["share"][epoch][number]),
                      None if box is None else (box[0], box[1], box[2], box[3]))
        assert rows is not None
        view = View(of("strips"), None if boxes is None else boxes.long(), of("flips"), mix)
        return rows.long(), view, self._logits(of("logits"), of("which"))

    def _logits(self, logits: Tensor | None, which: Tensor | None) -> Tensor:
        assert logits is not None
        if which is None:
            return logits.float()
        return spread(logits.float(), which.long(), self.card["classes"], self.card["relabel"]["rest"])


class Stored:
    """Examples whose views and labels are read from a store."""

    def __init__(self, examples: Examples, labels: Labels) -> None:
        self.examples, self.labels = examples, labels

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, rows: Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
        return self.examples.batch(rows, epoch)

    def walk(self, epoch: int, rng: RNG) -> Iterator[Batch]:
        """The batches of an epoch."""
        for place in turns(epoch, len(self.labels), self.labels.epochs, rng):
            rows, view, logits = self.labels.batch(*place)
            x = self.examples.batch(rows).x
            yield Batch(shown(x, view), logits.to(x))


def make_labels(folder: Path, images: str, examples: Examples, schedule: Schedule, pool: Pool, teachers: Teachers, rng: RNG,
                progress: Progress = Progress()) -> Labels:
    """The store in this folder, made if it is not there; goes on where a killed process stopped.

    images: the checksum of the set. Raises InputError: the store of something else, or damaged; RunError: the disk is full;
    Stopped: a stop was requested.
    """
    entry = Entry(folder, f"delete {folder} to label again")
    if entry.finished:
        return Labels.read(folder, images)
    with entry.held(wait=True):
        if not entry.finished:  # by another process that this one waited for
            try:
                _write(entry, images, examples, schedule, pool, teachers, rng, progress)
            except OSError as error:
                raise RunError(f"stopped: cannot write to {folder}: {reason(error)}; free some space and run the same "
                               "command to continue") from error
    return Labels.read(folder, images)


def name_of(images: str, schedule: Schedule, pool: Pool, teachers: Teachers, rng: RNG) -> str:
    """The name of a store: of what determines it."""
    context = teachers.context
    pruned = ["pruned"] if schedule.pruned else []  # which leaves out incomplete batches
    return digest(schedule.relabel, digest(schedule.views), str(schedule.batch_size), str(schedule.stored), *pruned, images,
                  pool.digest(context.real.fingerprint, *pool.identity(context.data_root)), *map(str, rng.path))


def _write(entry: Entry, images: str, examples: Examples, schedule: Schedule, pool: Pool, teachers: Teachers, rng: RNG,
           progress: Progress) -> None:
    folder, classes = entry.folder, len(teachers.context.real.classes)
    wanted, name = files_of(schedule, len(examples), classes), name_of(images, schedule, pool, teachers, rng)
    known = read_record(folder / STATE, entry.again) or {"name": name, "sums": {key: [] for key in wanted}}
    if known["name"] != name:
        raise InputError(f"{folder} holds the beginning of other labels; {entry.again}")
    sums: dict[str, list[str]] = known["sums"]
    for key, form in wanted.items():
        path = folder / f"{key}.npy"
        if sums[key]:
            check_written(path, form, dict(enumerate(sums[key])), entry.again)
        elif path.exists() and not _begun(path, form):
            raise InputError(f"{path} is in the way: it is no beginning of labels; move it elsewhere")
    writers = {key: RowWriter(folder / f"{key}.npy", form, goes_on=bool(sums[key])) for key, form in wanted.items()}
    members, saved = list(teachers), time.monotonic()

    def save() -> None:
        for writer in writers.values():
            writer.sync()  # a checkpoint must never be ahead of the rows
        write_record(folder / STATE, {"name": name, "sums": sums})

    try:
        for epoch in range(len(sums["rows"]), schedule.stored):
            found = _epoch(examples, schedule, members, rng, epoch, wanted)
            for key, writer in writers.items():
                sums[key].append(writer.write(epoch, found[key]))
            try:
                progress.tell(epoch + 1, schedule.stored, "labels")
            except BaseException:  # a stop was requested
                save()
                raise
            if time.monotonic() - saved > EVERY:
                save()
                saved = time.monotonic()
    finally:
        for writer in writers.values():
            writer.close()
    entry.finish({"schema": 1, "kind": "datastill.labels", "name": name, "images": images, "epochs": schedule.stored,
                  "classes": classes, "widths": schedule.widths(len(examples)), "batch_size": schedule.batch_size,
                  "views": dump(schedule.views), "relabel": dump(schedule.relabel), "pool": dump(pool),
                  "teachers": pool.facts(teachers.context), "sums": sums})
    (folder / STATE).unlink(missing_ok=True)


def _begun(path: Path, form: Form) -> bool:
    """Whether a file is what a process leaves that is killed before its first checkpoint."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(len(form.header))
    return form.header.startswith(head) and path.stat().st_size <= form.size


def _epoch(examples: Examples, schedule: Schedule, teachers: Sequence[Teacher], rng: RNG, epoch: int,
           wanted: Mapping[str, Form]) -> dict[str, np.ndarray]:
    parts: dict[str, list[Any]] = {key: [] for key in wanted}
    for number, rows in enumerate(schedule.batches(len(examples), epoch, rng)):
        x = examples.batch(rows).x
        view = schedule.views.draw(rng("batch", epoch, number)("view"), len(x), (x.shape[2], x.shape[3]))
        logits = label(teachers, shown(x, view), schedule.relabel.teacher).float().cpu()
        found: dict[str, Any] = {"rows": rows, "strips": view.strips, "boxes": view.boxes, "flips": view.flips,
                                 "logits": logits}
        if view.mix is not None:
            found |= {"order": view.mix.order, "share": torch.tensor([view.mix.share], dtype=torch.float64),
                      "mixed": None if view.mix.box is None else torch.tensor([view.mix.box])}
        if "which" in wanted:
            found["logits"], found["which"] = logits.topk(wanted["which"].shape[1], 1)
        largest = float(found["logits"].abs().max())
        if not largest <= float(np.finfo(np.float16).max):
            raise RunError(f"a teacher's logit is {largest:g}, which half precision cannot hold; use teachers that are less "
                           "sure, or ask them online with relabel.store=false")
        for key in wanted:
            parts[key].append(found[key].numpy())
    return {key: np.concatenate(value) for key, value in parts.items()}
