"""Images as latents of a frozen generator: GLaD's deep generative prior."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from datastill.data import Batch
from datastill.data.domain import Domain, domain_of
from datastill.description import NOT_DECISIVE
from datastill.errors import InputError
from datastill.foreign import calling
from datastill.late import nn, no_grad, torch
from datastill.parametrization import Parametrization
from datastill.parametrizations._autoencoder import Autoencoder
from datastill.rng import RNG
from datastill.tables import counted, nearest, shown
from datastill.teachers._weights import checksum, read_weights

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.task import Task

LATENTS, FEATURES = "latents", "features"
SUFFIXES = (".pt", ".pth", ".ts")  # of TorchScript


class Latent(Parametrization):
    """The synthetic set as latents of a frozen generator (GLaD; Cazenavette et al. 2023, CVPR, "Generalizing Dataset
    Distillation via Deep Generative Prior"): what is learned are its inputs z and, with ``layer``, the features that enter a
    layer of it too; images are G(z). They are meant to look like images of the generator, and to fit one architecture less
    closely.

    generator: a TorchScript file (.pt), or ``package.module:Class``, created without arguments, with ``weights`` from a
        state dict. By default the decoder of a class-conditional autoencoder that is trained on the run's own images with
        the settings ``training``, before the first iteration, and stored in ``ROOT/generators``; ``shape``, ``conditional``,
        ``low`` and ``high`` are then its own. It takes latents (B, *shape), if ``conditional`` one-hot classes of the run
        (B, K) too, and returns images (B, C, H, W) of the data's size with values from ``low`` to ``high``. It is used in
        evaluation mode, frozen, and may not draw at random. A StyleGAN-XL or the decoder of an autoencoder is wrapped in
        such a class; what it draws when it is created is the same every time.
    shape: of one latent. layer: path of the submodule whose input is learned too, only for classes. Where images depend on
        the latents through that input alone (as in the decoder trained here), only these features are learned.
    invert: steps of Adam (learning rate ``invert_lr``) in which the first latents are brought to decode to the images the
        method starts from. They begin random, or as ``encode(images)`` says, if the generator has such a method, for images
        from ``low`` to ``high``; the one that is trained here has. limit: latents are brought back into [-limit, limit]
        after every update.
    batch_size: images that are decoded at once. Gradients are computed part by part, so that memory does not grow with the
        set.

    Learning rates: ``method.optim.parameters.latents.lr`` and ``method.optim.parameters.features.lr``; GLaD's are 0.01 and
    10 with DM.
    """

    generator: str = ""
    training: Autoencoder = Autoencoder()
    weights: Annotated[str, NOT_DECISIVE] = ""  # what is in it is decisive: see identity
    shape: tuple[int, ...] = Field(default=(64,), min_length=1, max_length=4)
    conditional: bool = True
    low: float = Field(default=-1.0, ge=-1e6, le=1e6)
    high: float = Field(default=1.0, ge=-1e6, le=1e6)
    layer: str = ""
    invert: int = Field(default=0, ge=0, le=10**6)
    invert_lr: float = Field(default=0.05, gt=0.0, le=1e6)
    limit: float | None = Field(default=None, gt=0.0)
    batch_size: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low and high: expected low below high, got {self.low:g} and {self.high:g}")
        if self.weights and not self.generator:
            raise ValueError(f"weights {self.weights}: of which generator? Give it as generator=package.module:Class")
        if min(self.shape) < 1:
            raise ValueError(f"shape: expected numbers above 0, got {list(self.shape)}")
        if self.layer and self.generator.endswith(SUFFIXES):
            raise ValueError("layer: what enters a layer cannot be exchanged in a TorchScript file; give the generator as "
                             "package.module:Class")
        return self

    def is_path(self, key: str) -> bool:
        return key == "generator" and self.generator.endswith(SUFFIXES)

    def identity(self) -> tuple[str, ...]:
        files = [self.generator] if self.is_path("generator") else []
        if files and not Path(self.generator).expanduser().is_file():
            raise InputError(f"no file {self.generator}; expected a generator as TorchScript ({', '.join(SUFFIXES)})")
        return tuple(map(checksum, [*files, *([self.weights] if self.weights else [])]))

    def origin(self, task: Task) -> str:
        if self.generator:
            return " ".join((*([] if self.is_path("generator") else [self.generator]), *self.identity()))
        return self.training.folder(_all(task).real, task.root).name

    def check(self, task: Task, ipc: int) -> None:
        if not self.generator:
            self.training.check(task.real)
        codec = self._bound(task, self._load(task, untrained=True))
        _ = codec.generator  # what is wrong with its file or class has nothing to do with latents
        z = RNG("check").normal(2, *codec.how.shape).to(task.device).requires_grad_()
        y = torch.eye(task.classes, device=task.device)[[0, task.classes - 1]]
        try:
            with self._blaming():
                found, again, first = (codec._call(z[:n], y[:n]) for n in (2, 2, 1))
        except InputError as error:
            given = f"latents {tuple(z.shape)}" + (f" and one-hot classes {tuple(y.shape)}" if codec.how.conditional else "")
            raise InputError(f"{error}; it was given {given}, as parametrization.shape and parametrization.conditional "
                             "say") from None
        self._check_images(found, task.real.shape)
        if not torch.equal(found, again):
            raise InputError(f"{self.called} gives another image for the same latents: it draws at random, and a run could "
                             "not be repeated; fix its noise")
        if not torch.allclose(found[:1], first, rtol=1e-2, atol=1e-2 * float(found.detach().abs().max())):
            raise InputError(f"{self.called} gives another image for the same latents in another batch; a set is decoded in "
                             "parts, so each image must depend on its own latents alone")
        if not found.requires_grad:
            raise InputError(f"{self.called} cannot be differentiated with respect to its latents")
        if self.layer:
            codec.check_layer(z.detach(), y)

    def _check_images(self, found: Any, shape: tuple[int, ...]) -> None:
        """Check what the generator gave for two random latents. Raises InputError."""
        if not isinstance(found, torch.Tensor) or not found.is_floating_point():
            came = shown(found) if isinstance(found, torch.Tensor) else f"an object of type {type(found).__name__}"
            raise InputError(f"{self.called} gives {came}; expected images (B, C, H, W) with fractions, as in float32")
        if tuple(found.shape) != (2, *shape):
            raise InputError(f"{self.called} gives images of shape {tuple(found.shape[1:])}, the data have {shape}; "
                             "take another generator, or set data.size and data.channels")
        if not bool(torch.isfinite(found).all()):
            raise InputError(f"{self.called} gives values that are not finite for normal latents")
        least, most, width = float(found.detach().min()), float(found.detach().max()), self.high - self.low
        if self.generator and not self.low - width <= least <= most <= self.high + width:
            raise InputError(f"{self.called} gives values from {least:.4g} to {most:.4g} for normal latents; expected about "
                             f"{self.low:g} to {self.high:g}: set parametrization.low and parametrization.high to what is "
                             "black and white")

    def prepare(self, task: Task) -> Mapping[str, Any]:
        if self.generator:
            return {"generator": self.origin(task)}
        card = self.training.train(_all(task).real, task.root, task.progress)
        return {"generator": self.origin(task), "loss": card["loss"][-1]}

    def seconds(self, task: Task) -> float:
        return 0.0 if self.generator else self.training.seconds(_all(task).real, task.root)

    def bound(self, task: Task) -> Generated:
        return self._bound(task, self._load(task, untrained=task.dry_run))

    def _bound(self, task: Task, load: Callable[[], nn.Module]) -> Generated:
        how = self
        if not self.generator:
            how = self.model_copy(update={"shape": self.training.shape(task.real), "conditional": True, "low": -1.0,
                                          "high": 1.0})
        return Generated(how, load, domain_of(task.real), tuple(task.here), task.classes)

    def _load(self, task: Task, *, untrained: bool) -> Callable[[], nn.Module]:
        """What loads the generator when it is first used. untrained: an untrained one stands in for one of our own, which a
        dry run does not train and a check has not trained yet."""
        def load() -> nn.Module:
            if not self.generator:
                return _trained(self.training, _all(task), untrained)
            with self._blaming():
                return _generator(self.generator, self.weights, self.identity(), str(task.device))
        return load

    @property
    def called(self) -> str:
        """The generator in messages."""
        return f"generator {self.generator}" if self.generator else "the generator trained here"

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        if not self.generator:
            yield
            return
        with calling(self.called, self.generator.partition(".")[0].partition(":")[0]):
            yield

    def encode(self, start: Batch, task: Task, rng: RNG) -> dict[str, Tensor]:
        codec = self.bound(task)
        each = len(start.x) // len(task.here)
        if hasattr(codec.generator, "encode"):
            found = {LATENTS: codec.encode(start.x)}
        else:
            drawn = [rng("latent", c, task.first + number).normal(*codec.how.shape) for c in task.here
                     for number in range(each)]
            found = {LATENTS: torch.stack(drawn).to(task.device)}
        if self.invert and not task.dry_run:
            found[LATENTS] = self._inverted(codec, found[LATENTS], start.x, task)
        codec.project(found)
        if self.layer:
            found[FEATURES] = codec.entering(found[LATENTS])
        return found

    def _inverted(self, codec: Generated, z: Tensor, wanted: Tensor, task: Task) -> Tensor:
        """Latents that decode to these images as closely as ``invert`` steps bring them."""
        z = z.clone().requires_grad_()
        updates = torch.optim.Adam([z], self.invert_lr)
        with torch.enable_grad():
            for number in range(self.invert):
                updates.zero_grad()
                apart = (codec.decode({LATENTS: z}) - wanted).square().mean()
                if not bool(apart.isfinite()):
                    raise InputError(f"{self.called} gives values that are not finite after {number} of "
                                     f"{counted(self.invert, 'step')} (parametrization.invert); use an invert_lr smaller "
                                     f"than {self.invert_lr:g}, or set parametrization.limit")
                apart.backward()
                updates.step()
                codec.project({LATENTS: z})
                task.progress.tell(number + 1, self.invert, "latents of the first images")
        return z.detach()

    def decode(self, parameters: Mapping[str, Tensor], rows: Tensor | None = None) -> Tensor:
        raise InputError("parametrization latent decodes with a generator; decode a set of a task, as in synthetic.decode()")


class Generated:
    """A generator as what decodes."""

    def __init__(self, how: Latent, load: Callable[[], nn.Module], domain: Domain, here: tuple[int, ...],
                 classes: int) -> None:
        self.how, self._load, self.domain, self.here, self.classes = how, load, domain, here, classes

    @cached_property
    def generator(self) -> nn.Module:
        """Frozen."""
        return self._load()

    def __deepcopy__(self, memo: dict[int, Any]) -> Generated:
        return self  # frozen, and possibly large

    @no_grad
    def project(self, parameters: Mapping[str, Tensor]) -> None:
        """Bring latents back to where the generator knows them, in place."""
        if self.how.limit is not None:
            parameters[LATENTS].clamp_(-self.how.limit, self.how.limit)

    def labels(self, stored: Tensor) -> Tensor:
        """One image each."""
        return stored

    def decode(self, parameters: Mapping[str, Tensor], rows: Tensor | None = None) -> Tensor:
        """Normalized images (N, C, H, W)."""
        from datastill.functional._recomputed import Recomputed

        z, features = parameters[LATENTS], parameters.get(FEATURES)
        y = self._classes(z)
        if rows is not None:
            z, y, features = z[rows], y[rows], None if features is None else features[rows]
        inputs = (z, y) if features is None else (z, y, features)
        images: Tensor = Recomputed.apply(self._images, self.how.batch_size, *inputs)
        return images

    def _classes(self, z: Tensor) -> Tensor:
        """One-hot classes (S, K) of all stored images."""
        order = torch.tensor(self.here, device=z.device).repeat_interleave(len(z) // len(self.here))
        return torch.nn.functional.one_hot(order, self.classes).to(z.dtype)

    def _images(self, inputs: tuple[Tensor, ...], rows: slice) -> Tensor:
        z, y, *features = inputs
        with self.how._blaming(), self._exchanged(features[0] if features else None):
            found = self._call(z, y)
        pixels = (found.to(z.dtype) - self.how.low) / (self.how.high - self.how.low)
        return self.domain.normalize(pixels)

    def _call(self, z: Tensor, y: Tensor) -> Tensor:
        found: Tensor = self.generator(z, y) if self.how.conditional else self.generator(z)
        return found

    @contextmanager
    def _exchanged(self, features: Tensor | None) -> Iterator[None]:
        """Inside, these features enter the layer instead of those that the generator computes."""
        if features is None:
            yield
            return
        layer = self.generator.get_submodule(self.how.layer)
        hook = layer.register_forward_pre_hook(lambda module, given: (features, *given[1:]))
        try:
            yield
        finally:
            hook.remove()

    def encode(self, x: Tensor) -> Tensor:
        """The generator's own latents of normalized images. Raises InputError if it gives none of the right shape."""
        seen = self.domain.pixels(x) * (self.how.high - self.how.low) + self.how.low
        with torch.no_grad(), self.how._blaming():
            parts = [self.generator.encode(part) for part in seen.split(self.how.batch_size)]  # type: ignore[operator]
        for found, part in zip(parts, seen.split(self.how.batch_size), strict=True):
            if not isinstance(found, torch.Tensor) or found.shape[1:] != self.how.shape:
                came = tuple(found.shape[1:]) if isinstance(found, torch.Tensor) else type(found).__name__
                raise InputError(f"{self.how.called}: encode gives latents of shape {came}; expected "
                                 f"{self.how.shape} (parametrization.shape)")
            if len(found) != len(part):
                raise InputError(f"{self.how.called}: encode gives {counted(len(found), 'latent')} for "
                                 f"{counted(len(part), 'image')}; expected one each")
            if not bool(torch.isfinite(found).all()):
                raise InputError(f"{self.how.called}: encode gives values that are not finite")
        return torch.cat(parts).to(x.dtype)

    def check_layer(self, z: Tensor, y: Tensor) -> None:
        """Check that the layer is there and that one tensor enters it on the way to the images. Raises InputError."""
        passed: dict[str, Any] = {}
        hooks = [module.register_forward_pre_hook(lambda module, given, name=name: passed.update({name: given}))
                 for name, module in self.generator.named_modules() if name]
        try:
            with torch.no_grad(), self.how._blaming():
                self._call(z, y)
        finally:
            for hook in hooks:
                hook.remove()
        known = [name for name, given in passed.items() if given and isinstance(given[0], torch.Tensor)
                 and len(given[0]) == len(z)]
        if self.how.layer not in known:
            raise InputError(f"{self.how.called} passes no layer {self.how.layer!r} on the way to its images"
                             f"{nearest(self.how.layer, known)}")

    def entering(self, z: Tensor) -> Tensor:
        """The features that enter the layer for these latents, of all stored images."""
        found: list[Tensor] = []
        layer = self.generator.get_submodule(self.how.layer)
        hook = layer.register_forward_pre_hook(lambda module, given: found.append(given[0]))
        try:
            with torch.no_grad(), self.how._blaming():
                for part, y in zip(z.split(self.how.batch_size), self._classes(z).split(self.how.batch_size), strict=True):
                    self._call(part, y)
        finally:
            hook.remove()
        return torch.cat(found)


def _all(task: Task) -> Task:
    """The task whose images the generator is trained on: a shard's generator is that of the whole."""
    return task.whole or task


_TRAINED: dict[Any, nn.Module] = {}  # the last one, by settings, data and device


def _trained(how: Autoencoder, task: Task, untrained: bool) -> nn.Module:
    """The generator trained for this task, or an untrained one, frozen. Raises InputError if it is missing."""
    key = (how, task.real.fingerprint, str(task.root), str(task.device), untrained)
    if key not in _TRAINED:
        _TRAINED.clear()
        found = how.fresh(task.real) if untrained else how.load(task.real, task.root)
        _TRAINED[key] = found.requires_grad_(False).eval()
    return _TRAINED[key]


@lru_cache(maxsize=4)
def _generator(generator: str, weights: str, identity: tuple[str, ...], device: str) -> nn.Module:
    """A generator, frozen, on a device; ``identity``: checksums of its files. Raises InputError."""
    if generator.endswith(SUFFIXES):
        try:
            with warnings.catch_warnings(action="ignore"):  # torch would rather have exported programs
                found: Any = torch.jit.load(str(Path(generator).expanduser()), map_location=device)
        except Exception:  # torch raises many kinds for files that are not its own
            raise InputError(f"{generator} cannot be read as TorchScript; save it with torch.jit.save(torch.jit.script(...))"
                             ", or give the generator as package.module:Class") from None
    else:
        module, _, name = generator.partition(":")
        if not name:
            raise InputError(f"generator {generator!r}: expected a TorchScript file (.pt) or package.module:Class")
        try:
            with RNG("generator", generator).as_global():
                found = getattr(importlib.import_module(module), name)()
        except (ModuleNotFoundError, AttributeError) as error:
            raise InputError(f"generator {generator}: {error}") from None
        if not isinstance(found, nn.Module):
            raise InputError(f"generator {generator} is {type(found).__name__}; expected a torch.nn.Module")
        if weights:
            _fill(found, weights, generator)
    for parameter in found.parameters():  # a ScriptModule has no requires_grad_
        parameter.requires_grad_(False)
    return found.to(torch.device(device)).eval()


def _fill(generator: nn.Module, weights: str, name: str) -> None:
    known = read_weights(Path(weights).expanduser())
    wanted = generator.state_dict()
    for key, like in wanted.items():
        if key not in known or known[key].shape != like.shape:
            there = f"shape {tuple(known[key].shape)}" if key in known else "none"
            raise InputError(f"{weights}: tensor {key} of generator {name} has shape {tuple(like.shape)}, the file has "
                             f"{there}; the weights are from another one")
    generator.load_state_dict({key: known[key] for key in wanted})
