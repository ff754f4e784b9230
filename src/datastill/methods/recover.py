"""Recovery: images that a frozen network recognizes, and whose statistics inside it are those of real images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from datastill import memory
from datastill.core import Group, Method, Optim, Step
from datastill.data import Batch
from datastill.errors import InputError
from datastill.functional.batchnorm import Statistics, statistics_distance
from datastill.functional.crops import crop, draw_boxes, flip
from datastill.late import F, torch
from datastill.methods._patches import Patches, check_patches, mosaics
from datastill.methods._range import check_range, keep_in_range
from datastill.methods._sides import check_sides, seen_sides
from datastill.parametrizations.pixels import Pixels
from datastill.registry import kind
from datastill.rng import RNG
from datastill.task import Task, filled
from datastill.teachers import Pool, Teacher
from datastill.teachers.classifier import Classifier

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.synthetic import SyntheticSet

LARGEST = 4096  # pixels a side
MEASURE = 100  # iterations between measurements of the gradients of both terms, for the log


class Recover(Method):
    """Images recovered from frozen networks with batch normalization ("teachers"), starting from noise or from real crops.

    For a batch of images x with classes y the loss is CE(f(x), y) + ``weight`` * sum over normalization layers l of w_l
    (|mean_l(x) - running mean_l| + |var_l(x) - running var_l|), with w = ``first`` for the first layer and 1 for the others;
    norms are Euclidean and not squared. Before that all images of the batch are cropped, mirrored and shifted alike. It
    covers SRe2L (Yin et al. 2023) and the SRe2L++ of CV-DD (Cui et al. 2025), CDA (Yin & Shen 2024), SC-DD (Zhou et al.
    2024), LPLD's class-wise form (Xiao & He 2024) and FADRM (2025), from their public code. Students are meant to see soft
    labels: ``protocol=sre2l``.

    pool: the teachers, of the run's network by default; several take turns, one per iteration.
    together: whose statistics are taken together, in one pass: "classes": one image each of up to ``batch_size`` classes
        that follow each other (SRe2L); "class": up to ``batch_size`` images of one class (LPLD); "set": all images of the
        set, in passes of ``batch_size``, at a third more work (ours).
    against: the running statistics of the network ("network"), or those of real images of the same class ("class", LPLD;
        exact means and variances, where its code has running ones).
    scale_free: statistics in the units of each layer (ours; see ``losses.statistics_distance``).
    crop: smallest share of the area of a random resized crop; none: images are not cropped. crop_from: where this share
        starts (1 for CDA), to fall to ``crop`` as a cosine. flip: whether they are mirrored half of the time. roll: pixels
        they are shifted by at most, around the border.
    init: "noise", standard normal; "real" images; "patches": real crops chosen by the teachers, see ``patches``.
    clamp: whether pixels are kept within the range of real images, where they are what is learned.
    stages, sides, residual: FADRM: as many stages of equal length, each with a new optimizer, with images of these sides in
        pixels (by default the usual one), which the teachers see in that size; after each but the last the images are mixed
        with the share 1 - ``residual`` of those they started from.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "sre2l": {},
        "cda": {"crop_from": 1.0},
        "scdd": {"iterations": 1000, "pool": {"kind": "self_supervised", "networks": ()}},
        "lpld": {"together": "class", "against": "class"},
        "sre2l_pp": {"init": "patches", "patches": {"place": 0.5}, "roll": 4},
        "fadrm": {"init": "patches", "patches": {"place": 0.5}, "roll": 4, "stages": 4, "iterations": 2000},
    }

    pool: Pool = Classifier(networks=())
    iterations: int = Field(default=4000, ge=0, le=10**9)
    optim: Optim = Optim(name="adam", images=Group(lr=0.25, momentum=0.5), beta2=0.9, schedule="cosine")
    weight: float = Field(default=0.01, ge=0.0)
    first: float = Field(default=10.0, ge=0.0)
    scale_free: bool = False
    together: Literal["classes", "class", "set"] = "classes"
    against: Literal["network", "class"] = "network"
    batch_size: int = Field(default=100, ge=1)
    crop: float | None = Field(default=0.08, gt=0.0, le=1.0)
    crop_from: float | None = Field(default=None, gt=0.0, le=1.0)
    flip: bool = True
    roll: int = Field(default=32, ge=0, le=LARGEST)
    init: Literal["noise", "real", "patches"] = "noise"
    patches: Patches = Patches()
    clamp: bool = True
    stages: int = Field(default=1, ge=1, le=1000)
    sides: tuple[int, ...] = ()
    residual: float = Field(default=0.5, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.sides and len(self.sides) != self.stages:
            raise ValueError(f"sides: expected one for each of {self.stages} stages, got {len(self.sides)}")
        if wrong := [side for side in self.sides if not 1 <= side <= LARGEST]:
            raise ValueError(f"sides: expected pixels from 1 to {LARGEST}, got {wrong[0]}")
        if self.crop is None and self.crop_from is not None:
            raise ValueError("crop_from: images are not cropped with crop=none; set crop to where it shall end")
        if self.against == "class" and self.together != "class":
            raise ValueError("against=class needs together=class: the images of a pass have to be of one class")
        if self.stages > 1 and self.optim.ema is not None:
            raise ValueError("optim.ema: a running mean of images spans all stages, but each of them starts anew; leave it "
                             "out")
        return self

    @property
    def splits(self) -> bool:
        return self.together == "classes"

    def class_unit(self, classes: int) -> int:
        return {"classes": min(self.batch_size, classes), "class": 1, "set": classes}[self.together]

    def check(self, task: Task, ipc: int) -> None:
        asked = {"class_logits", *(["statistics"] if self.weight else [])}
        self.pool.for_network(task.network).check(task.context, asked)
        if self.init == "patches":
            check_patches(self.patches, task, (task.ipc or ipc) * task.parametrization.starts)
        if self.stages > max(1, self.iterations):
            raise InputError(f"method.stages is {self.stages} with method.iterations={self.iterations}; use at most as many "
                             "stages")
        if self.sides and self.sides[-1] != task.real.shape[1]:
            raise InputError(f"sides: the last stage has images of {self.sides[-1]} pixels, the data {task.real.shape[1]}; "
                             "both must be the same")
        if self.sides:
            check_sides(self.sides, self.pool.for_network(task.network), task)
        if self.stages > 1 and not isinstance(task.parametrization, Pixels):
            raise InputError(f"parametrization {kind(task.parametrization)}: only images themselves can be mixed with "
                             "others; set method.stages=1")
        if self.clamp:
            check_range(task)

    def prepare(self, task: Task) -> Mapping[str, Any]:
        pool = self.pool.for_network(task.network)
        pool.prepare(task.context)
        if self.against == "class":
            for teacher in task.teachers(pool):
                teacher.class_statistics(task.real)
        return {"teachers": pool.facts(task.context)}

    def start(self, task: Task, ipc: int, rng: RNG) -> SyntheticSet:
        labels = torch.eye(task.classes, device=task.device)[list(task.here)].repeat_interleave(ipc, 0)
        return task.synthetic(Batch(self._first(task, ipc, rng), labels), rng=rng("encode"))

    def _first(self, task: Task, ipc: int, rng: RNG) -> Tensor:
        """What images start from, (N, C, H, W) in class order; each a function of its class and number in the set."""
        whole, numbers, here = task.ipc or ipc, range(task.first, task.first + ipc), slice(task.here.start, task.here.stop)
        if self.init == "noise":
            drawn = [rng("noise", number).normal(task.classes, *task.real.shape)[here] for number in numbers]
            return torch.stack(drawn, 1).flatten(0, 1).to(task.device)
        if self.init == "patches":
            return mosaics(self.patches, task, self.pool.for_network(task.network), whole, numbers, rng("patches"))
        rows = [filled(task.real.draw(whole, rng("real", c), of_class=c), whole)[numbers.start:numbers.stop]
                for c in task.here]
        return task.real.batch(torch.cat(rows)).x

    def renew(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> SyntheticSet | None:
        length = self.iterations / self.stages
        stage = next((s for s in range(self.stages) if round(s * length) == iteration), None)
        if stage is None or (self.stages == 1 and not self.sides):
            return None
        side = (self.sides[stage],) * 2 if self.sides else task.real.shape[1:]
        with torch.no_grad():
            x = _resized(synthetic.decode(), side)
            if stage:
                x = self.residual * x + (1 - self.residual) * _resized(self._first(task, synthetic.ipc, rng), side)
        return task.synthetic(Batch(x, synthetic.y()), rng=rng("encode"))

    def iterate(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> Iterator[Step]:
        teachers = task.teachers(self.pool)
        teacher = teachers[iteration % len(teachers)]
        batch = synthetic.batch()
        work = _Work(self, task, teacher, self._share(iteration), rng, measured=iteration % MEASURE == 0)
        passes = self._passes(synthetic, task)
        loss = work.over(batch, passes) if self.together == "set" else work.apart(batch, passes)
        yield Step(loss, batch, teacher.for_run, log=work.log)
        if self.clamp:
            keep_in_range(synthetic, task)

    def memory(self, task: Task, ipc: int) -> Mapping[str, int]:
        """The graph of a pass, measured on a few images, and the images with Adam's means and the gradient; shards have
        fewer images."""
        teacher = task.teachers(self.pool)[0]
        side = (max(self.sides),) * 2 if self.sides else task.real.shape[1:]

        def graph(count: int) -> int:
            x = torch.zeros(count, task.real.shape[0], *side, device=task.device, requires_grad=True)
            return memory.held_by_graph(lambda: teacher.watched(teacher.see(x)))

        few, more = graph(2), graph(4)
        together = ipc if self.together == "class" else len(task.here)
        size = min(self.batch_size, together if self.together != "set" else ipc * len(task.here))
        of_pass = few + (more - few) // 2 * max(0, size - 2)
        images = 4 * ipc * len(task.here) * task.real.shape[0] * math.prod(side)
        return {f"passes of {size} images, batch_size={self.batch_size}": of_pass + 4 * images}

    def _share(self, iteration: int) -> float | None:
        """Smallest share of the area that crops have at this iteration; None: they are not cropped."""
        if self.crop is None or self.crop_from is None:
            return self.crop
        return self.crop + (self.crop_from - self.crop) * 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))

    def _passes(self, synthetic: SyntheticSet, task: Task) -> list[Pass]:
        """Which images go through the network together. Names do not depend on what else is in a shard."""
        rows, start = torch.arange(len(synthetic), device=task.device).view(len(task.here), -1), task.here.start
        if self.together == "class":
            parts = [(c, n, some) for c, of_class in enumerate(rows, start)
                     for n, some in enumerate(of_class.split(self.batch_size))]
        else:
            first = task.first * (len(synthetic) // synthetic.stored)  # in images as they are decoded
            parts = [(n, c, some) for n, of_number in enumerate(rows.T, first)
                     for c, some in enumerate(of_number.split(self.batch_size), start // self.batch_size)]
        return [Pass((*names,), some) for *names, some in parts]


class Pass(NamedTuple):
    """Images that go through a network together. name: of its stream. rows: of the set."""

    name: tuple[int, ...]
    rows: Tensor


class _Work:
    """The loss of one iteration, computed pass by pass with its gradient, so that only one graph is in memory. ``share``: of
    the area that crops have at least. measured: whether to note the gradients of both terms. log: what is told of it."""

    def __init__(self, method: Recover, task: Task, teacher: Teacher, share: float | None, rng: RNG, measured: bool) -> None:
        self.method, self.task, self.teacher, self.share, self.rng = method, task, teacher, share, rng
        self.measured, self.log = measured, dict[str, float]()

    def apart(self, batch: Batch, passes: list[Pass]) -> Tensor:
        """The sum over passes, each with its own statistics; differentiable once."""
        found, gradient = [], torch.zeros_like(batch.x)
        for number, one in enumerate(passes):
            x = batch.x[one.rows].detach().requires_grad_()
            entropy, statistics = self._terms(x, batch.y[one.rows], one)
            apart = self._distance(statistics, one)
            if self.measured and not number:
                self._measure(x, entropy, apart)
            (gradient[one.rows],) = torch.autograd.grad(entropy + self.method.weight * apart, x)
            found.append(torch.stack([entropy.detach(), apart.detach()]))
        return self._known(batch, found, gradient, len(passes))

    def over(self, batch: Batch, passes: list[Pass]) -> Tensor:
        """Mean cross-entropy of all images, and the distance of the statistics of all. These are means over passes, so a
        first walk without graph gives the derivative of the distance by those of each pass, and a second one its gradient:
        exact, in the memory of a pass."""
        with torch.no_grad():
            each = [self._terms(batch.x[one.rows], batch.y[one.rows], one)[1] for one in passes]
        shares = [len(one.rows) / len(batch.x) for one in passes]
        leaves = [{name: (s.mean.requires_grad_(), s.var.requires_grad_()) for name, s in found.items()} for found in each]
        whole = self._distance({name: _together(shares, [one[name] for one in leaves], like)
                                for name, like in each[0].items()}, passes[0])
        wanted = torch.autograd.grad(whole, [leaf for one in leaves for pair in one.values() for leaf in pair]) \
            if self.method.weight else []
        found, gradient, place = [], torch.zeros_like(batch.x), 0
        for number, one in enumerate(passes):
            x = batch.x[one.rows].detach().requires_grad_()
            entropy, statistics = self._terms(x, batch.y[one.rows], one)
            values = [value for s in statistics.values() for value in (s.mean, s.var)] if self.method.weight else []
            those = zip(values, wanted[place:place + len(values)], strict=True)
            part = torch.stack([(value * by).sum() for value, by in those]).sum() if values else 0 * entropy
            place += len(values)
            if self.measured and not number:
                self._measure(x, entropy, part)
            entropy = shares[number] * entropy
            (gradient[one.rows],) = torch.autograd.grad(entropy + self.method.weight * part, x)
            found.append(torch.stack([entropy.detach(), whole.detach() / len(passes)]))
        return self._known(batch, found, gradient, 1)

    def _known(self, batch: Batch, found: list[Tensor], gradient: Tensor, losses: int) -> Tensor:
        """The sum of these values, with its gradient; the log gets their mean over as many ``losses``."""
        total = torch.stack(found).sum(0)
        entropy, apart = (total / losses).tolist()
        self.log |= {"cross_entropy": entropy, "statistics": apart}
        from datastill.functional._known import Known

        return Known.apply(batch.x, total[0] + self.method.weight * total[1], gradient)

    def _terms(self, x: Tensor, y: Tensor, one: Pass) -> tuple[Tensor, dict[str, Statistics]]:
        """Mean cross-entropy over all classes the teacher knows, and the statistics of its layers."""
        seen, targets = self._seen(self._augmented(x, self.rng(*one.name))), y.argmax(1)
        if self.teacher.outputs is not None:
            targets = torch.tensor(self.teacher.outputs, device=x.device)[targets]
        with self.task.autocast():
            logits, statistics = self.teacher.watched(seen)
        return F.cross_entropy(logits.to(x.dtype), targets), statistics

    def _seen(self, x: Tensor) -> Tensor:
        """What the teacher sees: images of a stage are as much smaller or larger for it as they are for the data."""
        return self.teacher.see(x, *seen_sides(x.shape[2:], self.task, self.teacher))

    def _distance(self, statistics: dict[str, Statistics], one: Pass) -> Tensor:
        if not self.method.weight:
            return torch.zeros((), device=self.task.device)
        if self.method.against == "class":
            real = self.teacher.class_statistics(self.task.real)
            c = one.name[0]
            statistics = {name: s._replace(running_mean=real[name].mean[c], running_var=real[name].var[c])
                          for name, s in statistics.items()}
        return statistics_distance(statistics, self.method.first, self.method.scale_free)

    def _augmented(self, x: Tensor, rng: RNG) -> Tensor:
        """All images cropped, mirrored and shifted alike; crops in the size of the images."""
        if self.share is not None:
            size = (x.shape[2], x.shape[3])
            x = crop(x, draw_boxes(rng("crop"), 1, size, (self.share, 1.0)), size)
        if self.method.flip:
            x = flip(x, rng("flip").uniform(1) < 0.5)
        if self.method.roll:
            down, across = (rng("roll").uniform(2) * (self.method.roll + 1)).long().tolist()
            x = x.roll((down, across), (2, 3))
        return x

    def _measure(self, x: Tensor, entropy: Tensor, apart: Tensor) -> None:
        """Note the norms of both gradients at the images of the first pass."""
        terms = {"entropy": entropy, "statistics": apart} if self.method.weight else {"entropy": entropy}
        self.log |= {f"gradient.{name}": float(torch.autograd.grad(term, x, retain_graph=True)[0].norm())
                     for name, term in terms.items()}


def _together(shares: list[float], parts: list[tuple[Tensor, Tensor]], like: Statistics) -> Statistics:
    """Mean and variance of all values from those of parts that hold these shares of them."""
    mean = torch.stack([share * m for share, (m, _) in zip(shares, parts, strict=True)]).sum(0)
    square = torch.stack([share * (v + m.square()) for share, (m, v) in zip(shares, parts, strict=True)]).sum(0)
    return like._replace(mean=mean, var=square - mean.square())


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear")  # without antialiasing, as in FADRM's code
