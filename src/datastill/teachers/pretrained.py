"""Pre-trained teachers: weights of torchvision or timm by name, or files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import field_validator, model_validator

from datastill.data.domain import Domain, domain_of
from datastill.description import NOT_DECISIVE
from datastill.digest import digest, spec
from datastill.errors import InputError
from datastill.extras import install
from datastill.files import make_folder
from datastill.late import nn, torch
from datastill.nets import Architecture, fresh
from datastill.nets.timm import Timm
from datastill.nets.torchvision import Torchvision
from datastill.rng import RNG
from datastill.teachers._names import unnamed
from datastill.teachers._weights import checksum, file_names, fill, read_weights
from datastill.teachers.pool import Context, Pool, Teacher, frozen

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 1024  # pixels per side


class Pretrained(Pool):
    """Networks with given weights: those of torchvision or timm by name, or files of your own.

    networks: ``torchvision:model=resnet18``, ``timm:model=resnet18.a1_in1k``, or any other if ``files`` are given; if empty,
        the run's own network.
    weights: name of torchvision's weights (IMAGENET1K_V1); for timm, the tag after the network name selects them.
    files: a state dict (.safetensors, .pt, .pth) for each network, or several for a single one. Tensors are matched by
        our names or by the library's names; with ``match`` "order" by their order, for the same layers under other names.
    mean, std, shape, classes: of the images the networks were trained on: per channel, (C, H, W), names in order. Default:
        those that come with the weights, and for files those of the run's data. classes "run" means that the outputs are the
        run's classes in the run's order, whatever their names in the source of the weights.
    """

    networks: tuple[Architecture, ...] = (Torchvision(),)
    weights: str = "DEFAULT"
    files: Annotated[tuple[str, ...], NOT_DECISIVE] = ()
    match: Literal["names", "order"] = "names"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()
    classes: tuple[str, ...] | Literal["run"] = ()

    _names = field_validator("files", mode="before")(file_names)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.files and len(self.networks) not in (0, 1, len(self.files)):
            raise ValueError(f"files: expected one for each of the {len(self.networks)} networks, or several for a single "
                             f"one, got {len(self.files)}")
        if wrong := self._unavailable():
            raise ValueError(wrong)
        if len(self.mean) != len(self.std):
            raise ValueError("mean and std: expected one number per channel each")
        if self.shape and (len(self.shape) != 3 or min(self.shape) < 1 or max(self.shape) > LARGEST):
            raise ValueError(f"shape: expected [C, H, W], each from 1 to {LARGEST}, got {list(self.shape)}")
        if any(value <= 0 for value in self.std):
            raise ValueError("std: expected numbers above 0")
        return self

    def _unavailable(self) -> str:
        """What is wrong if weights by name are asked of a network that has none; empty if nothing is."""
        if self.files:
            return ""
        named = [network for network in self.networks if not isinstance(network, (Torchvision, Timm))]
        if named:
            return f"files: no weights are available by name for {spec(named[0])}; give a file for each network"
        if self.weights != "DEFAULT" and any(isinstance(network, Timm) for network in self.networks):
            return (f"weights {self.weights!r}: for timm, the tag after the network name selects the weights, as in "
                    "resnet18.a1_in1k")
        return ""

    @property
    def size(self) -> int:
        return len(self.files) if self.files and len(self.networks) <= 1 else 1

    def alone(self, group: int, number: int) -> Self:
        files = self.files[group + number:][:1]
        return self.model_copy(update={"networks": (self.networks[group],), "files": files})

    def identity(self, data_root: Path) -> tuple[str, ...]:
        return tuple(checksum(name) for name in self.files)

    def check(self, context: Context, asked: Collection[str] = ()) -> None:
        if wrong := self._unavailable():  # of the run's own network, which was not known before
            raise InputError(f"pool.{wrong}")
        for name in self.files:
            checksum(name)
        super().check(context, asked)
        for group, number in self.members() if self.files else ():
            self._filled(context, group, number)

    def prepare(self, context: Context) -> None:
        for group in range(len(self.networks)):
            for number in range(self.size):
                self.load(context, group, number)

    def load(self, context: Context, group: int, number: int) -> Teacher:
        domain, network = self.domain(context, group), self.networks[group]
        net = self._filled(context, group, number)
        if self.files:
            path = self.files[group + number]
            name, identity = f"{spec(network)}, {Path(path).name}", checksum(path)
        else:
            name = identity = f"{spec(network)}, {self.weights}"
        one = self.model_copy(update={"networks": (network,), "files": ()})
        folder = context.root / "teachers" / f"pretrained-{digest(one, identity)}"
        make_folder(folder)
        facts = {"network": spec(network), "weights": name, "epoch": 0, "digest": folder.name.rpartition("-")[2]}
        return Teacher(name, group, frozen(net.to(context.real.device)), domain, domain_of(context.real), folder, facts)

    def _filled(self, context: Context, group: int, number: int) -> nn.Module:
        """The network with its weights, on the CPU. Raises InputError."""
        domain, network = self.domain(context, group), self.networks[group]
        net = fresh(network, domain.shape, len(domain.classes), RNG("load"), torch.device("cpu"))
        if self.files:
            path = self.files[group + number]
            fill(net, _read(path, checksum(path)), path, in_order=self.match == "order")
        else:
            fill(net, _named(network, self.weights), f"{spec(network)} {self.weights}")
        return net

    def domain(self, context: Context, group: int = 0) -> Domain:
        known = domain_of(context.real)
        if self.files:
            path = self.files[group if len(self.networks) > 1 else 0]
            count = _outputs(_read(path, checksum(path)))
            names = known.classes if count in (None, len(known.classes)) else unnamed(count or 0)
            what, found = path, Domain(known.shape, known.mean, known.std, names, known.whitening)
        else:
            what, found = spec(self.networks[group]), _library_domain(self.networks[group], self.weights)
        if self.classes == "run" and len(found.classes) != len(known.classes):
            raise InputError(f"classes run: {what} has {len(found.classes)} outputs, the run has {len(known.classes)} "
                             "classes; leave classes out, or use weights with as many outputs")
        if not (self.mean or self.shape or self.classes):
            return found
        whitening = None if self.mean or self.shape else found.whitening
        channels, height, width = self.shape or found.shape
        mean, std = self.mean or found.mean, self.std or found.std
        classes = known.classes if self.classes == "run" else self.classes or found.classes
        if len(mean) != channels:
            raise InputError(f"mean and std: expected one number for each of {channels} channels, got {len(mean)}")
        return Domain((channels, height, width), mean, std, classes, whitening)


def _outputs(weights: Mapping[str, Tensor]) -> int | None:
    """Number of classes of the weights: the rows of the last matrix."""
    rows = [len(value) for value in weights.values() if value.dim() == 2]
    return rows[-1] if rows else None


@lru_cache(maxsize=4)
def _read(name: str, content: str) -> dict[str, Tensor]:
    return read_weights(Path(name).expanduser())


def _library_domain(network: Architecture, weights: str) -> Domain:
    """The images a library's weights were trained on."""
    if isinstance(network, Timm):
        try:
            import timm
        except ModuleNotFoundError:
            raise InputError(f"{spec(network)} needs timm, which is not installed; {install('timm')}") from None
        try:
            config = timm.get_pretrained_cfg(network.model)
        except RuntimeError:  # of an unknown tag, in newer versions
            config = None
        if config is None:
            raise InputError(f"timm has no weights for {network.model}")
        from timm.data import ImageNetInfo, infer_imagenet_subset

        subset = infer_imagenet_subset(config)
        names = tuple(ImageNetInfo(subset).label_names()) if subset else unnamed(config.num_classes)
        channels, height, width = config.input_size
        return Domain((channels, height, width), tuple(config.mean), tuple(config.std), names)
    entry = _entry(network, weights)
    how = entry.transforms()
    side = int(how.crop_size[0])
    return Domain((3, side, side), tuple(how.mean), tuple(how.std), tuple(entry.meta["categories"]))


def _named(network: Architecture, weights: str) -> dict[str, Tensor]:
    """A library's weights, downloaded unless they are cached. Raises InputError if that fails."""
    try:
        if isinstance(network, Timm):
            import timm

            return dict(timm.create_model(network.model, pretrained=True).state_dict())
        return dict(_entry(network, weights).get_state_dict(progress=False, check_hash=True, weights_only=True))
    except InputError:
        raise
    except Exception as error:  # no network, a truncated file, no such weights: hub clients raise their own kinds
        first = str(error).partition("\n")[0] or type(error).__name__
        which = "" if isinstance(network, Timm) else f" {weights}"
        raise InputError(f"the weights{which} of {spec(network)} cannot be downloaded: {first}; download them elsewhere and "
                         "give the path in files") from None


def _entry(network: Architecture, weights: str) -> Any:
    from torchvision import models

    assert isinstance(network, Torchvision)
    known = models.get_model_weights(network.model)
    try:
        return known[weights]
    except KeyError:
        raise InputError(f"torchvision has no weights {weights!r} for {network.model}; known: "
                         f"{', '.join(entry.name for entry in known)}, DEFAULT") from None
