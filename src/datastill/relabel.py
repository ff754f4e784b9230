"""Labels by teachers for every view of an image that a student will see: asked as they are needed, or once and stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from datastill.data import Batch
from datastill.description import Description
from datastill.functional.crops import draw_boxes, draw_flips
from datastill.functional.mixing import draw_cutmix, draw_mixup, mixed_labels
from datastill.functional.views import View, shown
from datastill.late import nn, no_grad, torch
from datastill.nets import passes
from datastill.rng import RNG
from datastill.teachers import Teacher
from datastill.train import Examples

if TYPE_CHECKING:
    from torch import Tensor

EVERY = 20.0  # seconds between checkpoints
STATE = "state.json"


class Views(Description):
    """What students see of an image, drawn anew for every epoch.

    strips: RDED's shuffling: each image is cut into so many vertical strips, which come in random order, then into
        horizontal ones; 1: not at all. window: "crop": a random resized crop of at least the share ``area`` of the image;
        "shift": the image shifted by up to an eighth of a side, zeros behind; "none": all of it. flip: mirrored half of the
        time.
    mix: images are mixed with others of their batch, every batch: "cutmix", "mixup" or "none"; beta: of the distribution
        of shares.
    """

    strips: int = Field(default=1, ge=1, le=16)
    window: Literal["crop", "shift", "none"] = "crop"
    area: float = Field(default=0.08, gt=0.0, le=1.0)
    flip: bool = True
    mix: Literal["cutmix", "mixup", "none"] = "cutmix"
    beta: float = Field(default=1.0, gt=0.0, le=1e6)

    def draw(self, rng: RNG, count: int, size: tuple[int, int]) -> View:
        """A view of a batch of ``count`` images of this size (H, W)."""
        strips = boxes = mix = None
        if self.strips > 1:
            strips = rng("strips").uniform(count, 2, self.strips).argsort(2).flatten(1)
        inner = (size[0] // self.strips * self.strips, size[1] // self.strips * self.strips)
        if self.window == "crop":
            boxes = draw_boxes(rng("crop"), count, inner, (self.area, 1.0))
        elif self.window == "shift":
            most = torch.tensor([int(0.125 * side + 0.5) for side in size])
            places = (rng("shift").uniform(count, 2) * (2 * most + 1)).long() - most
            boxes = torch.cat([places, torch.tensor([inner]).expand(count, 2)], 1)
        flips = draw_flips(rng("flip"), count) if self.flip else None
        if self.mix != "none":
            mix = draw_cutmix(rng("mix"), count, size, self.beta) if self.mix == "cutmix" else \
                draw_mixup(rng("mix"), count, self.beta)
        return View(strips, boxes, flips, mix)


class Relabel(Description):
    """Who labels what students see, and how much of it is kept.

    teacher: "eval": the teachers as they are used; "batch": with the statistics of the batch in their batch normalization
        ("BSSL", which the scripts of SRe2L for CIFAR do without saying so, and CV-DD on purpose).
    store: whether labels are stored beside the set: one schedule of views, the same for every student (FKD), in half
        precision. Otherwise the teachers are asked while each student trains. Labels of real images to compare with are not
        stored, but asked for as many epochs, and as much is kept of each.
    epochs: of labels that are stored; students of more epochs see their batches several times, in new orders (LPLD prunes
        this way). 0: as many as students train. An incomplete batch is left out if they are fewer.
    top: how many of a label's logits are stored, the largest ones; 0: all. rest: what the others become: "none": no share;
        "smallest": the smallest that is stored (LPQLD's two forms).
    """

    teacher: Literal["eval", "batch"] = "eval"
    store: bool = False
    epochs: int = Field(default=0, ge=0, le=100_000)
    top: int = Field(default=0, ge=0)
    rest: Literal["none", "smallest"] = "none"


class Schedule(NamedTuple):
    """What is shown when: of a set, in how many epochs, in batches of a size, to students of how many epochs."""

    views: Views
    relabel: Relabel
    batch_size: int
    epochs: int

    @property
    def stored(self) -> int:
        """Epochs of labels that are stored."""
        return min(self.relabel.epochs or self.epochs, self.epochs)

    @property
    def pruned(self) -> bool:
        """Whether labels are reused."""
        return self.stored < self.epochs

    def batches(self, count: int, epoch: int, rng: RNG) -> list[Tensor]:
        """Rows of the batches of an epoch over ``count`` images. A single image at the end joins the batch before."""
        parts = list(rng("order", epoch).permutation(count).split(self.batch_size))
        if len(parts) > 1 and self.pruned and len(parts[-1]) < self.batch_size:
            return parts[:-1]
        if len(parts) > 1 and len(parts[-1]) == 1:
            return [*parts[:-2], torch.cat(parts[-2:])]
        return parts

    def widths(self, count: int) -> list[int]:
        """Images in each batch of an epoch."""
        return [len(part) for part in self.batches(count, 0, RNG("widths"))]


@contextmanager
def asked(teacher: Teacher, how: Literal["eval", "batch"]) -> Iterator[nn.Module]:
    """The teacher's network in evaluation mode; with "batch" its batch normalization uses the statistics of what it is
    given, and keeps its own unchanged."""
    norms = [one for one in teacher.network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    kept = [(one.running_mean, one.running_var) for one in norms]
    try:
        for one in norms if how == "batch" else []:
            one.running_mean = one.running_var = None
        yield teacher.network
    finally:
        for one, (mean, var) in zip(norms, kept, strict=True):
            one.running_mean, one.running_var = mean, var


@no_grad
def label(teachers: Sequence[Teacher], x: Tensor, how: Literal["eval", "batch"] = "eval") -> Tensor:
    """Mean logits (B, K) of the run's classes by all teachers, for images of the run (B, C, H, W)."""
    found = []
    for teacher in teachers:
        seen = teacher.see(x)
        with asked(teacher, how) as network:
            if how == "batch":
                logits = network(seen)
            else:
                forms = passes(network, seen, "features")
                logits = torch.cat([forms.logits(part) for (part,) in forms.split(seen)])
        found.append(logits if teacher.outputs is None else logits[:, teacher.outputs])
    return torch.stack(found).mean(0).to(x.dtype)


def kept(logits: Tensor, relabel: Relabel) -> Tensor:
    """What a store keeps of logits (B, K): half precision, the largest ones."""
    if not relabel.store:
        return logits
    logits = logits.half().to(logits.dtype)
    if not 0 < relabel.top < logits.shape[1]:
        return logits
    values, which = logits.topk(relabel.top, 1)
    return spread(values, which, logits.shape[1], relabel.rest)


def spread(values: Tensor, which: Tensor, classes: int, rest: Literal["none", "smallest"]) -> Tensor:
    """Logits (B, K) of which only these values (B, top) of these classes are known; others are -inf or the smallest."""
    fill = values.min(1, keepdim=True).values if rest == "smallest" else values.new_full((len(values), 1), -torch.inf)
    return fill.expand(-1, classes).clone().scatter_(1, which, values)


def turns(epoch: int, of_epoch: int, stored: int, rng: RNG) -> Iterator[tuple[int, int]]:
    """(epoch, number) of the batches a student sees in an epoch, where there are labels for ``stored`` epochs of
    ``of_epoch`` batches: after these, batches are drawn from all of them, in new orders, all once before any comes again.
    """
    orders: dict[int, Tensor] = {}
    for place in range(epoch * of_epoch, (epoch + 1) * of_epoch):
        turn, number = divmod(place, stored * of_epoch)
        if turn or epoch >= stored:
            if turn not in orders:
                orders[turn] = rng("pool", turn).permutation(stored * of_epoch)
            number = int(orders[turn][number])
        yield divmod(number, of_epoch)


class Online:
    """Examples whose views are labeled by teachers as they are drawn; without teachers by their own labels, mixed."""

    def __init__(self, examples: Examples, schedule: Schedule, teachers: Sequence[Teacher]) -> None:
        self.examples, self.schedule, self.teachers = examples, schedule, teachers

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, rows: Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
        x, y = self.examples.batch(rows)
        if rng is None:
            return Batch(x, y)
        view = self.schedule.views.draw(rng("view"), len(x), (x.shape[2], x.shape[3]))
        x = shown(x, view)
        if self.teachers:
            return Batch(x, kept(label(self.teachers, x, self.schedule.relabel.teacher), self.schedule.relabel))
        return Batch(x, y if view.mix is None else mixed_labels(y, view.mix))

    def walk(self, epoch: int, rng: RNG) -> Iterator[Batch]:
        """The batches of an epoch."""
        parts = {epoch: self.schedule.batches(len(self), epoch, rng)}
        stored = self.schedule.stored if self.teachers else epoch + 1
        for there, number in turns(epoch, len(parts[epoch]), stored, rng):
            if there not in parts:
                parts[there] = self.schedule.batches(len(self), there, rng)
            yield self.batch(parts[there][number], there, rng("batch", there, number))
