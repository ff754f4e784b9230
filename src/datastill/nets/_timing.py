"""Timing the forms of a pass beside each other."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from datastill.errors import InputError
from datastill.functional.fused import has_kernels
from datastill.late import F, torch
from datastill.nets.forms import Form, Kind, Passes, is_compilable
from datastill.nets.network import couples_samples
from datastill.progress import log
from datastill.rng import RNG

if TYPE_CHECKING:
    from torch import Tensor, nn

ROUNDS, SECONDS, SHORTEST = 7, 2.0, 0.01  # of measuring at most; seconds of one measurement at least
ATTEMPTS = 3  # at a moment when the machine is not too busy
BETTER, NOISE = 0.95, 1.25  # a form must take less than this share of the usual one's time; median / fastest of equal passes


def candidates(network: nn.Module, usual: Form, compiling: bool) -> list[Form]:
    """Forms to try, the usual one first; none has larger chunks."""
    forms = [usual]
    on_cpu = all(one.device.type == "cpu" for one in network.parameters())
    if usual.kernels == "fused" and on_cpu and has_kernels():
        forms.append(usual.model_copy(update={"kernels": "torch"}))
    forms += [form.model_copy(update={"channels_last": True}) for form in forms]
    if not couples_samples(network):
        fewer = max(1, usual.chunk // 4)  # more would need more memory
        forms += [one.model_copy(update={"chunk": fewer}) for one in forms if fewer < usual.chunk]
    if compiling and is_compilable(network):
        forms.append(usual.model_copy(update={"compiled": True}))
    return forms


def choose(network: nn.Module, x: Tensor, kind: Kind, usual: Form,
           compiling: bool = False) -> tuple[Form, dict[str, float] | None]:
    """The fastest form for passes like this, and the seconds of an image by form; the usual one, and None, if the machine is
    too busy to tell."""
    forms = candidates(network, usual, compiling and kind != "second")
    few = x.detach()[:max(form.chunk for form in forms)]
    with _quiet(network, x) as other:
        work = {form: _work(Passes(other, form), few, kind) for form in forms}
        for _ in range(ATTEMPTS):
            seconds = measure(work, x.device)
            own = seconds[usual]
            if not (busy := statistics.median(own) > NOISE * min(own)):
                break
    if busy:
        log.warning("this machine is too busy to measure which form of a pass is fastest (the same one took %.3g to %.3g "
                    "s); the usual one is used", min(own), statistics.median(own))
        return usual, None
    middle = {form: statistics.median(taken) for form, taken in seconds.items()}
    best = min(middle, key=lambda form: middle[form])
    chosen = best if middle[best] < BETTER * middle[usual] else usual
    return chosen, {str(form): round(taken / len(few), 9) for form, taken in middle.items()}


def measure(work: Mapping[Form, Callable[[], object]], device: torch.device) -> dict[Form, list[float]]:
    """Seconds of each, in turn, after a warm-up; those that fail, for want of memory for example, are left out."""
    seconds: dict[Form, list[float]] = {}
    calls: dict[Form, int] = {}  # in one measurement
    for form, call in work.items():
        try:
            call()
        except (RuntimeError, MemoryError, InputError):
            continue
        calls[form] = max(1, round(SHORTEST / _seconds(call, device)))
        seconds[form] = []
    began = time.perf_counter()
    for number in range(ROUNDS):
        if number >= 3 and time.perf_counter() - began > SECONDS * number / (number + 1):
            break
        for form, taken in seconds.items():
            taken.append(_seconds(work[form], device, calls[form]))
    return seconds


def _seconds(call: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Seconds of a call, mean of several."""
    began = time.perf_counter()
    for _ in range(times):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / times


@contextmanager
def _quiet(network: nn.Module, x: Tensor) -> Iterator[nn.Module]:
    """A copy of the network to try, whose random layers draw from a stream of their own."""
    with RNG("speed").as_global(x.device):
        yield copy.deepcopy(network)


def _work(how: Passes, x: Tensor, kind: Kind) -> Callable[[], object]:
    """One pass of this kind over x."""
    network = how.network
    parameters = [one for one in network.parameters() if one.requires_grad]

    def features() -> None:
        with torch.no_grad():
            for (images,) in how.split(x):
                how.embed(images)

    def pixels() -> None:
        with torch.enable_grad():
            for (images,) in how.split(x):
                leaf = images.detach().requires_grad_()
                # The graph is retained as where gradient norms are measured: a form that cannot do that must not be chosen.
                torch.autograd.grad(how.embed(leaf).square().sum(), leaf, retain_graph=True)

    def weights() -> None:
        with torch.enable_grad():
            for (images,) in how.split(x):
                logits = how.logits(images)
                torch.autograd.grad(F.cross_entropy(logits, logits.detach().argmax(1)), parameters)

    def second() -> None:
        with torch.enable_grad():
            for (images,) in how.split(x):
                leaf = images.detach().requires_grad_()
                logits = how.logits(leaf)
                loss = F.cross_entropy(logits, logits.detach().argmax(1))
                found = torch.autograd.grad(loss, parameters, create_graph=True)
                torch.autograd.grad(torch.stack([one.square().sum() for one in found]).sum(), leaf)

    return {"features": features, "pixels": pixels, "weights": weights, "second": second}[kind]

