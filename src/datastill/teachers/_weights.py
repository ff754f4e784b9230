"""State dicts of other people: read without opening anything pickled, and fitted to a network by name or in order."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from datastill.errors import InputError
from datastill.late import nn, torch

if TYPE_CHECKING:
    from torch import Tensor

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")  # keys under which checkpoints hold the weights
PREFIXES = ("module.", "_orig_mod.")  # of data-parallel and compiled networks


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a state-dict file, wrappers and prefixes taken off; nothing pickled but tensors is opened.

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
    except Exception:  # torch raises a dozen kinds for a file that is not its own, with advice nobody should follow
        raise InputError(f"{path} cannot be read as weights; expected a state dict of tensors and nothing else, saved by "
                         "torch.save, or .safetensors") from None
    for key in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise InputError(f"{path} holds no state dict: expected tensors by name")
    weights = {str(name): value for name, value in found.items()}
    for name, value in weights.items():
        _see_plain(path, name, value)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _see_plain(path: Path, name: str, value: Tensor) -> None:
    """Check that a tensor can be weights. Raises InputError."""
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        what = "complex" if value.is_complex() else "sparse or quantized"
        raise InputError(f"{path}: tensor {name} is {what}; expected plain real numbers")
    if not bool(torch.isfinite(value).all()):
        raise InputError(f"{path}: tensor {name} holds numbers that are not finite; the training it comes from diverged")


def fill(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Give a network these weights: by its own names, by its library's, or in order.

    Raises InputError that names the first tensor that does not fit.
    """
    wanted = network.state_dict()
    ways = (weights, _renamed(weights, getattr(network, "classifier_path", "")))
    found = next((names for names in ways if set(wanted) <= set(names)), None) or _in_order(wanted, weights)
    others = [name for name in found if name not in wanted and "aux" not in name.lower()]  # heads used in training only
    for name, like in wanted.items():
        if name not in found:
            raise InputError(f"{source}: no tensor {name} (shape {tuple(like.shape)}) for this network; its weights are of "
                             f"another one, which has {', '.join(list(weights)[:3])}, ...")
        if found[name].shape != like.shape:
            raise InputError(f"{source}: tensor {name} has shape {tuple(found[name].shape)}, the network expects "
                             f"{tuple(like.shape)}; the network's options, classes or image shape are not those it was "
                             "trained with")
    if others:
        raise InputError(f"{source}: {len(others)} tensors this network does not have ({others[0]}, ...); its weights are "
                         "of another one")
    with torch.no_grad():
        for name, mine in wanted.items():  # not load_state_dict, whose hooks ask for metadata that other files do not have
            mine.copy_(found[name])


def _renamed(weights: Mapping[str, Tensor], classifier: str) -> dict[str, Tensor]:
    """Weights by a library's names under those of a ForeignNetwork."""
    return {f"classifier.{name.removeprefix(classifier + '.')}" if classifier and name.startswith(f"{classifier}.") else
            f"features.{name}": value for name, value in weights.items()}


def _in_order(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Other people's networks of the same layers: tensor by tensor, where there are equally many."""
    if len(wanted) != len(weights):
        return dict(weights)
    return dict(zip(wanted, weights.values(), strict=True))
