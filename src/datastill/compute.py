"""How numbers are computed on a device: precision, TF32, deterministic kernels, transfers; and what a card records about it.

On a CPU none of these settings changes a bit, and freed memory is kept for the next pass. Elsewhere ``computing`` sets them
for a piece of work and restores them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from datastill import memory
from datastill.environment import environment
from datastill.errors import RunError
from datastill.late import torch
from datastill.progress import log

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["float32", "tf32", "bfloat16"]
SLOWER, INSIST = 4.0, "DATASTILL_BFLOAT16"  # from this factor on float32 takes the place of bfloat16; unless this is set
WITHOUT_FLOAT64 = ("mps",)  # kinds of devices


@contextmanager
def computing(device: torch.device, precision: Precision = "float32", deterministic: bool = False) -> Iterator[None]:
    """Inside, matrix products and convolutions on a GPU use TF32 only if ``precision`` is "tf32" (torch's own default is
    TF32 for convolutions), and with ``deterministic`` torch uses deterministic kernels. Restored afterwards.

    Raises RunError for an operation that has no deterministic kernel.
    """
    if device.type == "cpu":
        memory.keep_freed()
        yield
        return
    places = _tf32()
    before = [getattr(place, name) for place, name, _ in places]
    asked = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        for place, name, values in places:
            setattr(place, name, values[precision == "tf32"])
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses without it
            torch.use_deterministic_algorithms(True)
        yield
    except RuntimeError as error:
        if not deterministic or "deterministic" not in str(error):
            raise
        raise RunError(f"deterministic=true is not possible: {str(error).partition('. ')[0]}; leave it out, or choose "
                       "another network") from error
    finally:
        for (place, name, _), value in zip(places, before, strict=True):
            setattr(place, name, value)
        torch.use_deterministic_algorithms(asked[0], warn_only=asked[1])


def _tf32() -> list[tuple[Any, str, tuple[Any, Any]]]:
    """The TF32 settings of torch: object, attribute, values for off and on. Since 2.9 there are new names too; those that
    are already in use are used, because torch refuses to read the old ones once the new ones were set."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        _ = matmul.allow_tf32, cudnn.allow_tf32
    except RuntimeError:
        return [(place, "fp32_precision", ("ieee", "tf32"))
                for place in (matmul, cudnn.conv, cudnn.rnn)]  # type: ignore[attr-defined]
    return [(place, "allow_tf32", (False, True)) for place in (matmul, cudnn)]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """A context in which networks compute in bfloat16 if ``precision`` says so; their weights stay float32. On a CPU that is
    much slower at bfloat16 they compute in float32 (``falls_back``)."""
    asked = precision == "bfloat16" and not falls_back(device, precision)
    return torch.autocast(device.type, torch.bfloat16) if asked else nullcontext()


def falls_back(device: torch.device, precision: Precision) -> bool:
    """Whether float32 takes the place of bfloat16: on a CPU without instructions for it, up to 60 times slower, unless the
    environment variable DATASTILL_BFLOAT16 is 1. Measured, and said in a warning, once in a process."""
    return precision == "bfloat16" and device.type == "cpu" and environment(INSIST, "1") != "1" and _is_slow()


@cache
def _is_slow() -> bool:
    factor = slowdown()
    if factor > SLOWER:
        log.warning("precision=bfloat16 is %.0f times slower than float32 on this processor, so float32 is used; to insist, "
                    "set the environment variable %s=1", factor, INSIST)
    return factor > SLOWER


def slowdown() -> float:
    """How many times longer a small convolution takes in bfloat16 than in float32 on this CPU."""
    x, weight = torch.ones(8, 64, 16, 16), torch.ones(64, 64, 3, 3)

    def seconds(dtype: torch.dtype) -> float:
        inputs, taken = (x.to(dtype), weight.to(dtype)), []
        for _ in range(4):
            began = time.perf_counter()
            torch.nn.functional.conv2d(*inputs, padding=1)
            taken.append(time.perf_counter() - began)
        return min(taken)

    with torch.no_grad():
        return seconds(torch.bfloat16) / seconds(torch.float32)


def needs_deterministic(device: torch.device) -> bool:
    """Whether operations without a deterministic kernel must be replaced here; never on a CPU, where all have one."""
    return device.type != "cpu" and torch.are_deterministic_algorithms_enabled()


def facts(device: torch.device, precision: Precision, deterministic: bool = False) -> dict[str, Any]:
    """What a card records about how a set was computed; equal for equal settings on one machine."""
    versions: dict[str, Any] = {"torch": torch.__version__}
    used = "float32 (bfloat16 is slower on this processor)" if falls_back(device, precision) else precision
    name = {}
    if device.type == "cuda":
        name = {"name": torch.cuda.get_device_name(device)}
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"device": device.type, **name, "precision": used, "tf32": device.type == "cuda" and precision == "tf32",
            "deterministic": deterministic or device.type == "cpu", "versions": versions}


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. Copies from host to GPU go through pinned memory, so that the host does not wait."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def double(tensor: Tensor) -> Tensor:
    """The tensor in float64, on its device; on the CPU if the device has no float64."""
    return (tensor.cpu() if tensor.device.type in WITHOUT_FLOAT64 else tensor).double()
