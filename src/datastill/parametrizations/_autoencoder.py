"""A small class-conditional generator, trained on the run's own images: the decoder of a variational autoencoder."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from datastill.compute import computing
from datastill.data import Images
from datastill.description import Description
from datastill.digest import digest, dump
from datastill.errors import InputError, RunError
from datastill.extras import install
from datastill.files import reason
from datastill.late import F, nn, torch
from datastill.progress import Progress
from datastill.rng import RNG
from datastill.states import read_state, write_state
from datastill.store import CARD, Entry
from datastill.train import extrapolated, half_cosine

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, STATE = "weights.pt", "state.pt"
EVERY = 30.0  # seconds between checkpoints
GROUPS = 8  # of the normalizations
LONGEST = 8.0  # seconds, about, that an estimate takes at most


class Autoencoder(Description):
    """A variational autoencoder with ``diffusers``' encoder and decoder, whose decoder sees the class too.

    Latents are ``channels`` maps of the image's size halved ``halvings`` times. The loss is the mean squared error of pixels
    from -1 to 1 plus ``kl`` times the mean KL divergence of a latent from the standard normal. width: channels at full size,
    a multiple of 8, doubled with each halving. epochs, batch_size, lr: of AdamW, warmed up for a twentieth of the epochs,
    then a cosine. All of this is ours: GLaD has StyleGAN-XL trained on ImageNet.
    """

    width: int = Field(default=32, ge=GROUPS, le=1024, multiple_of=GROUPS)
    halvings: int = Field(default=2, ge=1, le=6)
    channels: int = Field(default=4, ge=1, le=256)
    epochs: int = Field(default=20, ge=1, le=100_000)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=1e-3, gt=0.0, le=1e30)
    kl: float = Field(default=1e-3, ge=0.0, le=1e6)
    seed: int = Field(default=0, ge=0, lt=2**62)

    def check(self, real: Images) -> None:
        """Check that such a generator can be made for these images. Raises InputError."""
        _diffusers()
        height, width = real.shape[1:]
        if height % (step := 2**self.halvings) or width % step:
            fitting = [n for n in range(1, self.halvings) if not (height % 2**n or width % 2**n)]
            advice = f"use parametrization.training.halvings={fitting[-1]}" if fitting else "set data.size to an even number"
            raise InputError(f"latent: images of {height}x{width} pixels cannot be halved {self.halvings} times; {advice}, "
                             "or give a generator")

    def shape(self, real: Images) -> tuple[int, ...]:
        """Of one latent: (channels, H / 2^halvings, W / 2^halvings)."""
        return (self.channels, *(side // 2**self.halvings for side in real.shape[1:]))

    def folder(self, real: Images, root: Path) -> Path:
        """Where it is stored."""
        return root / "generators" / f"autoencoder-{digest(self, real.fingerprint)}"

    def finished(self, real: Images, root: Path) -> bool:
        """Whether it has been trained."""
        return (self.folder(real, root) / CARD).exists()

    def load(self, real: Images, root: Path) -> nn.Module:
        """The finished generator. Raises InputError if it is missing or damaged."""
        folder = self.folder(real, root)
        Entry(folder, _again(folder)).read()
        network = self.fresh(real)
        network.load_state_dict(read_state(folder / WEIGHTS, real.device, "generator"))
        return network

    def fresh(self, real: Images) -> nn.Module:
        """An untrained one."""
        from datastill.parametrizations._conditional import Conditional

        with RNG("autoencoder", self.seed)("network").as_global():
            network = Conditional(real.shape[0], len(real.classes), self.channels, self.halvings, self.width, GROUPS)
        return network.to(real.device)

    def train(self, real: Images, root: Path, progress: Progress) -> dict[str, Any]:
        """Train it if it does not exist; waits if another process does. Returns its card."""
        folder = self.folder(real, root)
        place = Entry(folder, _again(folder))
        if not place.finished:
            with place.held(wait=True):
                if not place.finished:
                    self._train(real, place, progress)
        return place.read()

    def _train(self, real: Images, place: Entry, progress: Progress) -> None:
        lesson, saved = _Lesson(self, real), time.monotonic()
        try:
            if (path := place.folder / STATE).exists():
                lesson.restore(read_state(path, real.device, "generator"))
            while len(lesson.losses) < self.epochs:
                with computing(real.device):  # runs of every precision share it
                    lesson.advance()
                try:
                    progress.tell(len(lesson.losses), self.epochs, "generator")
                except BaseException:  # a stop was requested
                    write_state(path, lesson.state())
                    raise
                if time.monotonic() - saved > EVERY:
                    write_state(path, lesson.state())
                    saved = time.monotonic()
            write_state(place.folder / WEIGHTS, lesson.network.state_dict())
            place.finish({"schema": 1, "kind": "datastill.generator", "autoencoder": dump(self), "data": real.fingerprint,
                          "loss": lesson.losses}, [WEIGHTS])
            path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"stopped: cannot write to {place.folder}: {reason(error)}; free some space and run the same "
                           "command to continue") from error

    def seconds(self, real: Images, root: Path) -> float:
        """Estimated seconds of its training, if it has to be trained; nothing is written."""
        if self.finished(real, root):
            return 0.0
        lesson, enough = _Lesson(self, real), min(len(real), 4 * self.batch_size)

        def train(count: int) -> float:
            began = time.perf_counter()
            lesson.see(torch.arange(count), RNG("rehearsal"))
            return time.perf_counter() - began

        train(min(16, enough))
        return extrapolated(train, enough, LONGEST) * len(real) / enough * self.epochs


class _Lesson:
    """The training of one, an epoch at a time; an epoch is a function of the state before it."""

    def __init__(self, how: Autoencoder, real: Images) -> None:
        self.how, self.real, self.rng = how, real, RNG("autoencoder", how.seed)("train")
        self.network: Any = how.fresh(real).train()
        self.updates = torch.optim.AdamW(self.network.parameters(), how.lr, weight_decay=0.0)
        self.losses: list[float] = []

    def advance(self) -> None:
        epoch = len(self.losses)
        for group in self.updates.param_groups:
            group["lr"] = half_cosine(self.how.lr, self.how.epochs, 0.05)[epoch]
        loss = self.see(self.rng("order", epoch).permutation(len(self.real)), self.rng("noise", epoch))
        if not math.isfinite(loss):
            raise RunError(f"the generator diverged in epoch {epoch + 1} at learning rate {self.how.lr:g}; lower "
                           "parametrization.training.lr")
        self.losses.append(round(loss, 6))

    def see(self, order: Tensor, rng: RNG) -> float:
        """One update per batch of these images. Returns the mean loss."""
        found = []
        for number, rows in enumerate(order.split(self.how.batch_size)):
            x, y = self.real.raw(rows).to(self.real.device).float() / 127.5 - 1, self.real.labels(rows)
            mean, log_var = self.network.spread(x)
            z = mean + (0.5 * log_var).exp() * rng(number).normal(*mean.shape).to(mean.device)
            apart = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
            loss = F.mse_loss(self.network(z, y), x) + self.how.kl * apart
            self.updates.zero_grad(set_to_none=True)
            loss.backward()
            self.updates.step()
            found.append(loss.detach())
        return float(torch.stack(found).mean())

    def state(self) -> dict[str, Any]:
        return {"losses": self.losses, "network": self.network.state_dict(), "updates": self.updates.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self.losses = list(state["losses"])
        self.network.load_state_dict(state["network"])
        self.updates.load_state_dict(state["updates"])


def _again(folder: Path) -> str:
    return f"to train it again, delete {folder}"


def _diffusers() -> None:
    try:
        import diffusers  # noqa: F401
    except ImportError:
        raise InputError("parametrization latent trains its generator with diffusers, which is not installed; "
                         f"{install('generators')}, or give a generator of your own (parametrization.generator)") from None
