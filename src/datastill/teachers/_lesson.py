"""Training one teacher: it is trained, measured, saved at several epochs, and resumed where it stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

from datastill.data import Images
from datastill.digest import dump
from datastill.errors import InputError
from datastill.nets import fresh
from datastill.progress import Progress
from datastill.rng import RNG
from datastill.states import read_state, write_state
from datastill.teachers._snapshots import SNAPSHOTS, SnapshotWriter, check_rows, flat, write_card

if TYPE_CHECKING:
    from datastill.teachers._trained import Trained

EVERY = 30.0  # seconds between checkpoints
STATE = "state.pt"


class Trainer(Interface):
    """Trains a teacher one epoch at a time; ``train.Training`` is one. An epoch is a function of the state before it."""

    epoch: int  # completed epochs

    def advance(self) -> float:
        """Train one more epoch. Returns its loss; raises RunError if it diverges."""
        ...

    def check(self) -> None:
        """Check the final weights. Raises RunError."""

    def state(self) -> dict[str, Any]:
        """Everything that changes during training, as tensors and plain values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume from a state."""


class Lesson:
    """Training of one teacher on the images ``taught``, measured on the held-out images ``held``, in its folder; resumes
    from the last checkpoint there."""

    def __init__(self, pool: Trained, images: Images, taught: Images, held: Images | None, folder: Path) -> None:
        self.pool, self.taught, self.held, self.folder = pool, taught, held, folder
        rng, self.outputs = RNG("teacher", pool.seed), pool.outputs(images)
        self.network = fresh(pool.networks[0], images.shape, len(self.outputs), rng("network"), images.device)
        self.digest, self.fingerprint = pool.digest(images.fingerprint), images.fingerprint
        self.training = pool.training(self.network, taught, rng("train"))
        self.accuracy: list[float] = []  # or another measure on the held-out images; before training and after each epoch
        self.losses: list[float] = []
        self.sums: dict[int, str] = {}  # checksums of the snapshots written, by epoch
        self._restore()

    @cached_property
    def path(self) -> Path:
        """Path of the checkpoint."""
        return self.folder / STATE

    def carry_out(self, progress: Progress) -> None:
        """Train to the end and write the card. Raises RunError if training diverges, Stopped if a stop is requested."""
        pool, saved = self.pool, time.monotonic()
        writer = SnapshotWriter(self.folder / SNAPSHOTS, len(pool.kept), len(flat(self.network)),
                                goes_on=bool(self.sums))
        try:
            if not self.accuracy and not self.sums:
                self._note(writer)
            while self.training.epoch < pool.epochs:
                self.losses.append(round(self.training.advance(), 6))
                self._note(writer)
                if time.monotonic() - saved > EVERY:
                    self._save()
                    saved = time.monotonic()
                try:
                    progress.tell(self.training.epoch, pool.epochs)
                except BaseException:  # a stop was requested
                    self._save()
                    raise
            if pool.epochs:
                self.training.check()
        finally:
            writer.close()
        write_card(self.folder, self.network, pool.kept, [self.sums[epoch] for epoch in pool.kept], {
            "pool": dump(pool), "digest": self.digest, "data": self.fingerprint, "classes": list(self.outputs),
            "mean": list(self.taught.mean), "std": list(self.taught.std), "shape": list(self.taught.shape),
            "images": {"training": len(self.taught), "validation": 0 if self.held is None else len(self.held)},
            "accuracy": self.accuracy, "loss": self.losses,
            **({} if self.held is None else pool.report(self.network, self.held))})
        self.path.unlink(missing_ok=True)

    def _note(self, writer: SnapshotWriter) -> None:
        """Measure the network, and save a snapshot if this epoch is in ``pool.kept``."""
        epoch = self.training.epoch
        if self.held is not None:
            self.accuracy.append(round(self.pool.measure(self.network, self.held), 6))
        if epoch in self.pool.kept:
            self.sums[epoch] = writer.write(self.pool.kept.index(epoch), self.network)

    def _save(self) -> None:
        write_state(self.path, {"digest": self.digest, "training": self.training.state(), "accuracy": self.accuracy,
                                "losses": self.losses, "sums": self.sums})

    def _restore(self) -> None:
        if not self.path.exists():
            return
        state = read_state(self.path, next(self.network.parameters()).device, "teacher")
        if not isinstance(state, dict) or state.get("digest") != self.digest:
            raise InputError(f"{self.path} is the checkpoint of another teacher; delete it to train this one from scratch")
        check_rows(self.folder, self.network, self.pool.kept, state["sums"])
        self.training.restore(state["training"])
        self.accuracy, self.losses, self.sums = state["accuracy"], state["losses"], dict(state["sums"])
