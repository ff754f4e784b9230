"""The descriptions of networks, and how a network is created from a description and a random stream."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from weakref import WeakKeyDictionary

from datastill import memory
from datastill.compute import send
from datastill.description import Family
from datastill.digest import digest, spec
from datastill.errors import InputError
from datastill.foreign import blaming, guard_instance, is_foreign
from datastill.late import nn, torch
from datastill.rng import RNG

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, int, int]  # (C, H, W) of one image
Norm = Literal["none", "instance", "batch", "layer", "group"]
Activation = Literal["relu", "sigmoid", "leakyrelu", "swish"]
Pooling = Literal["none", "avg", "max"]
Stem = Literal["auto", "small", "original"]


class Architecture(Family):
    """Describes a network; ``build`` creates it. To add one, put a class into a file in ``datastill/nets``, or outside."""

    home: ClassVar[str] = "datastill.nets"

    @abstractmethod
    def build(self, shape: Shape, classes: int) -> nn.Module:
        """A network for images of ``shape`` (C, H, W), with ``embed`` and ``maps`` as in ``datastill.Network``. A class of
        your own may return logits as they are, first in a tuple, or as ``logits`` of an object or a table.

        Raises InputError if it does not fit the image size.
        """


def fresh(architecture: Architecture, shape: Shape, classes: int, rng: RNG, device: torch.device) -> nn.Module:
    """A new network in training mode with PyTorch's default initialization, determined by ``rng`` only."""
    with rng.as_global():
        network = architecture.build(shape, classes)
    for need in ("embed", "maps"):
        if not hasattr(type(network), need):
            raise InputError(f"network {spec(architecture)} builds a module of class {type(network).__name__} without "
                             f"{need}(x); return a datastill.Network, or one whose class defines it")
    if is_foreign(type(architecture)):
        guard_network(network, f"network {spec(architecture)}", type(architecture))
        tensors = [*network.parameters(), *network.buffers()]
        if not all(isinstance(one, torch.Tensor) for one in tensors):
            raise InputError(f"network {spec(architecture)} has parameters or buffers that are no tensors; leave these "
                             "methods of nn.Module as they are")
        if any(torch.nn.parameter.is_lazy(one) for one in tensors):
            raise InputError(f"network {spec(architecture)} has lazy layers, whose sizes are not known before they see "
                             "images; build it from the shape and classes it is given")
    # What it was made from, for ``chunk_size`` and ``choices.py``.
    vars(network)["_origin"] = (type(architecture), digest(architecture), shape, classes, spec(architecture))
    return network if device.type == "cpu" else _moved(network, device)


def _logits(found: Any, what: str, network: nn.Module, *given: Any) -> Tensor:
    """The logits in what a network returns."""
    if isinstance(found, Mapping):
        logits = found.get("logits")
    elif isinstance(found, (tuple, list)) and not hasattr(found, "logits"):
        logits = found[0] if found else None
    else:
        logits = getattr(found, "logits", found)
    if not isinstance(logits, torch.Tensor):
        raise InputError(f"{what} returned {type(found).__name__}; expected logits (B, K), alone, first in a tuple, or as "
                         "`logits`")
    return _one_row_each(logits, "logits", what, given)


def _one_row_each(found: Tensor, name: str, what: str, given: Sequence[Any]) -> Tensor:
    x = given[0] if given else None
    if isinstance(x, torch.Tensor) and found.shape[:1] != x.shape[:1]:
        raise InputError(f"{what} returned {name} of shape {tuple(found.shape)} for {len(x)} images; expected one row for "
                         "each")
    return found


def _features(found: Any, what: str, network: nn.Module, *given: Any) -> Tensor:
    if not isinstance(found, torch.Tensor) or found.dim() != 2:
        got = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise InputError(f"{what} returned {got}; expected features (B, D)")
    return _one_row_each(found, "features", what, given)


def _maps(found: Any, what: str, network: nn.Module, *given: Any) -> Mapping[str, Tensor]:
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise InputError(f"{what} returned {type(found).__name__}; expected a table of feature maps, name -> (B, C, H, W)")
    return {name: _one_row_each(value, str(name), what, given) for name, value in found.items()}


def _itself(found: Any, what: str, network: nn.Module, *given: Any) -> nn.Module:
    if found is not network:
        raise InputError(f"{what} returned {type(found).__name__}; expected the network itself, as in `return self`")
    return network


def _several(found: Any, what: str, *_: Any) -> Iterator[Any]:
    if not isinstance(found, Iterable):
        raise InputError(f"{what} returned {type(found).__name__}; expected what nn.Module gives")
    return iter(found)


def guard_network(network: nn.Module, who: str, cls: type) -> None:
    """Put the boundary around a network that a foreign class ``cls`` made: its passes, and what it may override of
    nn.Module; ``who``: its name in messages."""
    guard_instance(network, who, cls, {
        "forward": _logits, "embed": _features, "maps": _maps,
        **dict.fromkeys(("train", "eval", "requires_grad_"), _itself),
        **dict.fromkeys(("parameters", "named_parameters", "buffers", "named_buffers"), _several),
        **dict.fromkeys(("modules", "named_modules"), _several),
        **dict.fromkeys(("__call__", "walk", "state_dict", "load_state_dict"), lambda found, *_: found)})


def check_network(architecture: Architecture, shape: Shape, classes: int, device: torch.device) -> None:
    """Check that a network can be trained on such images: it gives one finite number per class for each of two images, with
    gradients. Raises InputError."""
    _check_weights(architecture, shape, classes, device)
    who, rng = f"network {spec(architecture)}", RNG("check")
    network = fresh(architecture, shape, classes, rng, device)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError(f"{who} has no parameters to train")
    if classes and (empty := [name for name, parameter in network.named_parameters() if not parameter.numel()]):
        raise InputError(f"{who} has a parameter without values, {empty[0]}; leave it out")
    x = rng("images").normal(2, *shape).to(device)
    with rng("inside").as_global(device), blaming(("network", type(architecture))):
        for training in (False, True):
            logits = (network.train() if training else network.eval())(x)
            if logits.shape != (2, classes) or not logits.is_floating_point():
                raise InputError(f"{who} gives an output of shape {tuple(logits.shape[1:])} for an image; expected "
                                 f"({classes},), one floating-point number per class (two images gave {logits.dtype} of "
                                 f"shape {tuple(logits.shape)})")
            features, maps = look(network, x)
            if any(len(values) != 2 for values in (features, *maps.values())):
                raise InputError(f"{who} does not give one row of features, or one feature map, for each of two images")
        if classes:
            logits.sum().backward()
    if device.type != "meta" and not bool(torch.isfinite(logits).all()):
        raise InputError(f"{who} gives outputs that are not finite for random images of shape {shape}")


def _check_weights(architecture: Architecture, shape: Shape, classes: int, device: torch.device) -> None:
    """Check, without creating it, that a network of any width fits the memory of a device. Raises InputError."""
    if not type(architecture).__module__.startswith(Architecture.home) or not hasattr(architecture, "width"):
        return  # others need not support being built without memory
    with torch.device("meta"):
        needed = sum(one.nbytes for one in architecture.build(shape, classes).parameters())
    if needed > memory.SHARE * memory.total(device):
        raise InputError(f"network {spec(architecture)} needs {needed / 2**30:.0f} GiB for its weights alone, "
                         f"{memory.total(device) / 2**30:.0f} GiB are there; choose a smaller one")


ALIGNMENT = 256  # bytes, as in GPU allocators


def _moved(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with its parameters and buffers on a device, copied as one block of memory of which they are views."""
    tensors = {id(one): one for one in (*network.parameters(), *network.buffers())}
    parts, starts, end = [], [], 0
    for one in tensors.values():
        raw = one.detach().contiguous().view(-1).view(torch.uint8)
        parts.append(torch.nn.functional.pad(raw, (0, -len(raw) % ALIGNMENT)))
        starts.append(end)
        end += len(parts[-1])
    whole = send(torch.cat(parts) if parts else torch.zeros(0, dtype=torch.uint8), device)
    views = {name: whole[start:start + one.nbytes].view(one.dtype).view(one.shape)
             for start, (name, one) in zip(starts, tensors.items(), strict=True)}
    return network._apply(lambda one: views[id(one)])


def origin(network: nn.Module) -> type | None:
    """The class of the description that ``fresh`` created the network from, if it did."""
    found: type | None = vars(network).get("_origin", (None,))[0]
    return found


def look(network: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """``embed(x)`` and ``maps(x)``: in one pass if the network uses the methods of ``Network``, else in two."""
    from datastill.nets._network import Network

    methods = [inspect.unwrap(getattr(type(network), name)) for name in ("maps", "embed")]
    if isinstance(network, Network) and methods == [Network.maps, Network.embed]:
        features, outputs = network.walk(x)
        return features, {tap: network.arrange(output) for tap, output in outputs.items()}
    return network.embed(x), network.maps(x)  # type: ignore[operator]


def couples_samples(network: nn.Module) -> bool:
    """Whether the output for one image depends on the others in its batch (batch normalization in training mode)."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and (m.training or m.running_mean is None)
               for m in network.modules())


# Bytes for the largest feature map of a pass: on a CPU, there if memory matters more, elsewhere.
BLOCK, SMALL_BLOCK, DEVICE_MEMORY = 32 * 2**20, 8 * 2**20, 2**30


def chunk_size(network: nn.Module, x: Tensor, twice: bool = False) -> int:
    """How many images of the size of ``x`` (B, C, H, W) to pass through a network at once; at most B. B if the images are
    coupled.

    On a CPU the largest feature map then is a block of at most 32 MiB: smaller chunks are a tenth slower, larger ones are
    not faster and need more memory. 8 MiB for graphs that are differentiated ``twice``, which hold three times as much, and
    where the C library does not keep freed memory (``memory.keep_freed``): large blocks would be got page by page each time.
    """
    if couples_samples(network) or not hasattr(network, "maps"):
        return len(x)
    block = DEVICE_MEMORY
    if x.device.type == "cpu":
        block = SMALL_BLOCK if twice or not memory.keep_freed() else BLOCK
    return min(len(x), max(8, block // (4 * _largest_map(network, x))))


_LARGEST: dict[Any, int] = {}  # by the arguments of ``fresh`` and the shape of an image
_OTHERS: WeakKeyDictionary[nn.Module, dict[Any, int]] = WeakKeyDictionary()  # for networks created without ``fresh``


def _largest_map(network: nn.Module, x: Tensor) -> int:
    """Number of values in the largest feature map of one image of the size of ``x``, or in the image; measured once."""
    origin, shape = vars(network).get("_origin"), x.shape[1:]
    known, key = (_LARGEST, (origin, shape)) if origin else (_OTHERS.setdefault(network, {}), shape)
    if key not in known:
        with _probing(network), torch.no_grad():
            maps = network.maps(x[:1].detach())  # type: ignore[operator]
        known[key] = max([math.prod(shape), *(value.numel() for value in maps.values())])
    return known[key]


@contextmanager
def _probing(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, so that probing the network draws no dropout and updates no statistics."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


GROUPS = 4  # in group normalization


def norm_layer(norm: Norm, channels: int, height: int, width: int) -> nn.Module | None:
    """The normalizations used in the field; "instance" is GroupNorm with one channel per group and affine weights."""
    match norm:
        case "none":
            return None
        case "instance":
            return nn.GroupNorm(channels, channels)
        case "batch":
            return nn.BatchNorm2d(channels)
        case "layer":
            return nn.LayerNorm([channels, height, width])
        case "group":
            if channels % GROUPS:
                raise InputError(f"norm=group needs a width divisible by {GROUPS}, got {channels} channels")
            return nn.GroupNorm(GROUPS, channels)


def activation_layer(activation: Activation) -> nn.Module:
    """The activations used in the field, not in-place, so that feature maps are not overwritten."""
    return {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "leakyrelu": nn.LeakyReLU, "swish": nn.SiLU}[activation]()


def does_not_fit(name: str, shape: Shape, advice: str) -> InputError:
    """The error for a network that cannot process images of this size."""
    return InputError(f"network {name} does not fit images of {shape[1]}x{shape[2]} pixels: {advice}")


def as_function(network: nn.Module) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """The parameters as one vector (P,), and the logits as a function of such a vector and images (B, C, H, W)."""
    shapes = {name: value.shape for name, value in network.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]

    def predict(weights: Tensor, x: Tensor) -> Tensor:
        parts = zip(shapes.items(), weights.split(sizes), strict=True)
        return torch.func.functional_call(network, {name: part.view(shape) for (name, shape), part in parts}, (x,))

    return torch.cat([value.detach().flatten() for value in network.parameters()]), predict
