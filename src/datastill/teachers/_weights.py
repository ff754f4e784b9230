"""State dicts from elsewhere: read without unpickling arbitrary objects, and matched to a network by name or in order."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from datastill.errors import InputError
from datastill.files import sha256
from datastill.late import nn, torch

if TYPE_CHECKING:
    from torch import Tensor

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")  # keys under which checkpoints store the weights
COUNTER = "num_batches_tracked"
PREFIXES = ("module.", "_orig_mod.")  # of data-parallel and compiled networks
ENCODERS = ("encoder_q.", "base_encoder.", "backbone.", "encoder.")  # behind which some checkpoints keep the network


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a state-dict file, with wrappers and prefixes removed; only tensors are unpickled.

    Raises InputError.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load as load_tensors

            found: Any = load_tensors(path.read_bytes())
        else:
            with warnings.catch_warnings(action="ignore"):
                found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"no file {path}") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read as weights: {error}") from None
    except Exception:  # torch raises many kinds for files not its own, with unsafe advice
        raise InputError(f"{path} cannot be read as weights; expected a state dict with only tensors, saved by "
                         "torch.save, or .safetensors") from None
    for key in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise InputError(f"{path} is not a state dict; expected tensors by name")
    weights = {str(name): value for name, value in found.items()}
    for name, value in weights.items():
        _see_plain(path, name, value)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _see_plain(path: Path, name: str, value: Tensor) -> None:
    """Check that a tensor can be used as weights. Raises InputError."""
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        what = "complex" if value.is_complex() else "sparse or quantized"
        raise InputError(f"{path}: tensor {name} is {what}; expected plain real numbers")
    if not value.is_floating_point() and not name.endswith(COUNTER):
        raise InputError(f"{path}: tensor {name} is of {str(value.dtype).removeprefix('torch.')}; expected floating-point "
                         "weights: quantized ones have to be converted first")
    if not bool(torch.isfinite(value).all()):
        raise InputError(f"{path}: tensor {name} contains non-finite values; the training it comes from diverged")


def fill(network: nn.Module, weights: Mapping[str, Tensor], source: str, in_order: bool = False) -> None:
    """Load these weights into a network: by its own names or by its library's names, or ``in_order``. The number of batches
    that batch normalization has seen is left out: older files lack it, and frozen networks do not use it.

    Raises InputError that names the first tensor that does not match.
    """
    wanted, weights = ({name: value for name, value in one.items() if not name.endswith(COUNTER)}
                       for one in (network.state_dict(), weights))
    ways = (weights, _renamed(weights, getattr(network, "classifier_path", "")))
    found = next((names for names in ways if set(wanted) <= set(names)), None)
    if found is None:
        found = dict(zip(wanted, weights.values(), strict=True)) if in_order and len(wanted) == len(weights) else \
            max(ways, key=lambda names: len(set(wanted) & set(names)))  # the one that is meant
    others = [name for name in found if name not in wanted and "aux" not in name.lower()]  # training-only heads are ignored
    for name, like in wanted.items():
        if name not in found:
            alike = [value.shape for value in weights.values()] == [value.shape for value in wanted.values()]
            why = "the shapes are those of this network in its order: if the layers are too, set match=order" if alike else \
                "the weights are from another one"
            raise InputError(f"{source}: no tensor {name} (shape {tuple(like.shape)}) for this network among "
                             f"{', '.join(list(weights)[:3])}, ...; {why}")
        if found[name].shape != like.shape:
            raise InputError(f"{source}: tensor {name} has shape {tuple(found[name].shape)}, the network expects "
                             f"{tuple(like.shape)}; check that the network's options, classes and image shape are those "
                             "the weights were trained with")
        if name.endswith("running_var") and bool((found[name] < 0).any()):
            raise InputError(f"{source}: tensor {name} has variances below 0; the file is damaged, or holds something else")
    if others:
        raise InputError(f"{source}: {len(others)} tensors that this network does not have ({others[0]}, ...); the weights "
                         "are from another one")
    with torch.no_grad():
        for name, mine in wanted.items():  # not load_state_dict: its hooks need metadata that other files lack
            mine.copy_(found[name])


def fill_body(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load the weights of everything but the classifier, from a checkpoint that may have others beside them: second
    networks, heads, queues. Raises InputError that names the first tensor that does not match."""
    for prefix in ENCODERS:
        if inside := {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}:
            weights = inside
            break
    path = getattr(network, "classifier_path", "")
    body = {name for name in network.state_dict() if not name.startswith("classifier.")}
    ways = (weights, _renamed(weights, path))
    whole = max(ways, key=lambda names: len(body & set(names)))
    there = {name: value for name, value in whole.items() if name in body}
    stacks = {stack for name in body for stack in _stacks(name)}
    more = [name for name in whole if name not in body and not name.endswith(COUNTER) and stacks & _stacks(name)]
    if there and more:
        raise InputError(f"{source}: {len(more)} tensors that this network does not have ({more[0]}, ...), in parts that it "
                         "has; the weights are from a larger one")
    mine = {name: value for name, value in network.state_dict().items() if name.startswith("classifier.")}
    fill(network, {**(there or weights), **mine}, source)


def _stacks(name: str) -> set[str]:
    """What a tensor's name says are numbered blocks: ``features.layer1`` of ``features.layer1.0.conv1.weight``."""
    return {name[:found.start()] for found in re.finditer(r"\.\d+\.", name)}


def file_names(files: Any) -> Any:
    """Files as given to a pool, paths among them as text."""
    return [str(one) if isinstance(one, Path) else one for one in files] if isinstance(files, (list, tuple)) else files


def checksum(name: str) -> str:
    """Of a file of weights. Raises InputError if there is none."""
    path = Path(name).expanduser()
    try:
        return _checked(path, path.stat().st_mtime_ns)
    except OSError:
        raise InputError(f"no file {name}; expected weights: .safetensors, .pt or .pth") from None


@lru_cache(maxsize=64)
def _checked(path: Path, changed: int) -> str:
    return sha256(path)


def _renamed(weights: Mapping[str, Tensor], classifier: str) -> dict[str, Tensor]:
    """Weights renamed from a library's names to those of a ForeignNetwork."""
    return {f"classifier.{name.removeprefix(classifier + '.')}" if classifier and name.startswith(f"{classifier}.") else
            f"features.{name}": value for name, value in weights.items()}
