"""What networks learn from images in which what they see has been erased: the experiment that motivates MetaDD."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from datastill.analysis.meta_features import maps_of
from datastill.arguments import is_number, whole
from datastill.data import Batch, Images
from datastill.description import Description
from datastill.digest import digest, spec
from datastill.errors import InputError
from datastill.functional.invariance import Masks, masks
from datastill.late import torch
from datastill.nets import fresh
from datastill.progress import Progress
from datastill.rng import RNG
from datastill.statistics import statistics
from datastill.store import Entry, read_record, write_record
from datastill.tables import counted, shown
from datastill.teachers import Pool, Teacher, Teachers
from datastill.train import Fixed, accuracies, fit, half_cosine, overall

if TYPE_CHECKING:
    from torch import Tensor

WAYS = {
    "nothing": "the images as they are",
    "meta": "what all networks see",
    "own heterogeneous": "what the student's architecture sees and not all do",
    "others' heterogeneous": "what any other sees, and neither all nor the student's architecture",
    "as much elsewhere": "the meta area of another image: as much, but not what is seen here (ours)"}


class Erased(NamedTuple):
    """Students of an architecture on images erased in a way: the mean share of an image that was erased, accuracies on whole
    images, fractions, one for each trial."""

    network: str
    way: str
    share: float
    accuracies: tuple[float, ...]

    @property
    def summary(self) -> dict[str, float]:
        """Their mean and its interval."""
        found: dict[str, float] = statistics(list(self.accuracies))
        return found


class Erasing(Description):
    """What determines the students: the networks that look, the images, and how students are trained. The number of trials
    does not: more of them go on where fewer ended."""

    version: ClassVar[int] = 1

    pool: Pool
    teachers: tuple[str, ...]
    images: tuple[str, str]
    count: int
    threshold: float
    epochs: int
    lr: float
    batch_size: int
    seed: int


def check_erasing(pool: Pool, train: Images, *, count: int = 5000, threshold: float = 0.5, epochs: int = 20,
                  lr: float = 0.05, batch_size: int = 128, trials: int = 3, seed: int = 0) -> None:
    """Check what ``erasing`` is given, before any networks are trained. Raises InputError."""
    for name, number, least in (("count", count, 1), ("epochs", epochs, 1), ("trials", trials, 1),
                                ("batch_size", batch_size, 1), ("seed", seed, 0)):
        whole(name, number, least)
    for name, value, most in (("threshold", threshold, 1.0), ("lr", lr, 1e6)):
        if not is_number(value) or not 0 < value <= most:
            raise InputError(f"{name}: expected a number above 0 and at most {most:g}, got {shown(value)}")
    if pool.size > 1:
        raise InputError(f"erasing compares what architectures see, the pool has {pool.size} networks of each; set "
                         "pool.count=1")
    if len(pool.networks) < 2:
        raise InputError("what networks see alike takes at least two, the pool has one")
    if count > len(train):
        raise InputError(f"count: {count} of {counted(len(train), 'training image')}; use {len(train)} or fewer")


def erasing(teachers: Teachers, train: Images, test: Images, *, count: int = 5000, threshold: float = 0.5, epochs: int = 20,
            lr: float = 0.05, batch_size: int = 128, trials: int = 3, seed: int = 0, root: Path | None = None,
            progress: Progress = Progress()) -> list[Erased]:
    """Train students of each of the teachers' architectures on ``count`` random training images from which pixels have been
    erased (set to the mean of the data) in the ways of ``WAYS``, and measure them on the whole test images.

    teachers: at least two architectures, whose activation maps say what they see (``functional.invariance.masks``). epochs,
    lr, batch_size: SGD with momentum 0.9, the learning rate falling as a cosine; students of a trial start alike. root:
    where the accuracy of every student is stored as soon as it is known, so that none is trained twice. Zhao et al. 2024
    (MetaDD) show such an experiment on Tiny-ImageNet; its settings are not known to us. Raises InputError, RunError.
    """
    check_erasing(teachers.pool, train, count=count, threshold=threshold, epochs=epochs, lr=lr, batch_size=batch_size,
                  trials=trials, seed=seed)
    members = list(teachers)
    how = Erasing(pool=teachers.pool, teachers=tuple(str(one.facts.get("digest", one.name)) for one in members),
                  images=(train.fingerprint, test.fingerprint), count=count, threshold=threshold, epochs=epochs, lr=lr,
                  batch_size=batch_size, seed=seed)
    if root is None:
        return _erase(how, members, train, test, trials, None, progress)
    entry = Entry(root / "erasing" / digest(how), "wait for it, or stop it")
    with entry.held():
        return _erase(how, members, train, test, trials, entry.folder / "students.json", progress)


def _erase(how: Erasing, members: list[Teacher], train: Images, test: Images, trials: int, place: Path | None,
           progress: Progress) -> list[Erased]:
    kept = read_record(place, "delete it to train these students again") if place else None
    known: dict[str, list[float]] = kept["students"] if kept else {}
    rng = RNG(how.seed)("erasing")
    rows = rng("images").permutation(len(train))[:how.count].sort().values
    batch = train.batch(rows)
    progress.tell(0, 1, "activation maps")
    seen = masks(torch.stack([maps_of(one, batch.x, batch.y.argmax(1)) for one in members]), how.threshold)
    found, total, done = [], len(members) * len(WAYS) * trials, 0
    for number, teacher in enumerate(members):
        name = spec(how.pool.networks[teacher.group])
        for way, mask in _masks(seen, number, rng):
            scores = known.setdefault(f"{number}: {name}, {way}", [])
            erased = Batch(batch.x.masked_fill(mask.to(batch.x.device)[:, None], 0.0), batch.y)  # 0 is the mean
            for trial in range(trials):
                progress.tell(done, total, f"{name}, {way}")
                if trial == len(scores):
                    scores.append(_student(how, teacher, erased, test, rng("student", trial), progress.unshown()))
                    if place:
                        write_record(place, {"students": known})
                done += 1
            found.append(Erased(name, way, float(mask.double().mean()), tuple(scores[:trials])))
    progress.tell(total, total)
    return found


def _masks(seen: Masks, number: int, rng: RNG) -> Iterator[tuple[str, Tensor]]:
    """What is erased for students of network ``number``, (B, H, W), by way."""
    own = seen.heterogeneous[:, number]
    others = seen.heterogeneous[:, [other for other in range(seen.heterogeneous.shape[1]) if other != number]].any(1) & ~own
    elsewhere = seen.meta[rng("elsewhere").permutation(len(seen.meta))]
    yield from zip(WAYS, (torch.zeros_like(seen.meta), seen.meta, own, others, elsewhere), strict=True)


def _student(how: Erasing, teacher: Teacher, batch: Batch, test: Images, rng: RNG, progress: Progress) -> float:
    network = fresh(how.pool.networks[teacher.group], test.shape, len(test.classes), rng("network"), test.device)
    fit(network, Fixed(batch), half_cosine(how.lr, how.epochs, warmup=0.0), rng("train"), batch_size=how.batch_size,
        progress=progress)
    return overall(accuracies(network, test), test)
