"""How batches pass through a network: in chunks of how many images, by which code, in which memory layout.

Every form computes the same up to rounding; which one is fastest depends on the processor (``choices.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field

from datastill.description import Description
from datastill.foreign import is_foreign
from datastill.functional.fused import using_torch
from datastill.late import torch
from datastill.nets.network import chunk_size, couples_samples, look, origin
from datastill.progress import log

if TYPE_CHECKING:
    from torch import Tensor, nn

# What a pass is for: features without a graph; the derivative with respect to the images, or to the weights; that of the
# latter.
Kind = Literal["features", "pixels", "weights", "second"]


class Form(Description):
    """One way to pass a batch through a network.

    chunk: images at a time. kernels: "fused" (``functional.fused``, where there are any) or "torch". channels_last: the
    layout of the images. compiled: by ``torch.compile``.
    """

    chunk: int = Field(ge=1)
    kernels: Literal["fused", "torch"] = "fused"
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        more = [name.replace("_", " ") for name in ("channels_last", "compiled") if getattr(self, name)]
        return ", ".join([f"{self.chunk} at once", self.kernels, *more])


class Passes:
    """Passes of a network in one form."""

    def __init__(self, network: nn.Module, form: Form) -> None:
        self.network, self.form = network, form

    def split(self, x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """x (B, C, H, W) in its chunks and layout, and what belongs to the images in the same chunks."""
        for images, *more in zip(*(one.split(self.form.chunk) for one in (x, *others)), strict=True):
            yield self.laid_out(images), *more

    def laid_out(self, images: Tensor) -> Tensor:
        """The images in this form's layout."""
        return images.contiguous(memory_format=torch.channels_last) if self.form.channels_last else images

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, K) of a chunk."""
        return self._call("logits", images)

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, D) of a chunk."""
        return self._call("embed", images)

    def run(self, function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
        """A function whose last argument is a chunk, in this layout and by this code."""
        with self._code():
            return function(*arguments[:-1], self.laid_out(arguments[-1]))

    def look(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features and feature maps of a chunk."""
        with self._code():
            return look(self.network, images)

    def _call(self, what: str, images: Tensor) -> Tensor:
        if self.form.compiled and len(images) == self.form.chunk and is_compilable(self.network):
            try:
                return _compiled(what)(self.network, images)
            except Exception as error:
                _give_up_compiling(error)
        with self._code():
            return _CALLS[what](self.network, images)

    def _code(self) -> AbstractContextManager[Any]:
        return using_torch() if self.form.kernels == "torch" else nullcontext()


def _embed(network: Any, x: Tensor) -> Tensor:
    found: Tensor = network.embed(x)
    return found


def _logits(network: Any, x: Tensor) -> Tensor:
    found: Tensor = network(x)
    return found


_CALLS: dict[str, Callable[[Any, Tensor], Tensor]] = {"embed": _embed, "logits": _logits}
_broken: list[str] = []  # why nothing can be compiled here


@cache
def _compiled(what: str) -> Callable[[Any, Tensor], Tensor]:
    """The call, compiled when it first sees a kind of network and a size of chunk; shared by all networks of a kind."""
    with suppress(ImportError, AttributeError):
        from torch._functorch import config
        config.donated_buffer = False  # or a pass can only be differentiated once, which measuring gradient norms does twice
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no GPU
    found: Callable[[Any, Tensor], Tensor] = torch.compile(_CALLS[what], dynamic=False)
    return found


def _give_up_compiling(error: Exception) -> None:
    if not _broken:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        log.warning("torch.compile does not work here (%s: %s); it is left out: slower, the same results",
                    type(error).__name__, lines[0].strip())
        _broken.append(lines[0])


def is_compilable(network: nn.Module) -> bool:
    """Whether it is a network of the library: others may do anything."""
    cls = origin(network)
    return not _broken and cls is not None and not is_foreign(cls)


def passes(network: nn.Module, x: Tensor, kind: Kind, repeats: int = 1) -> Passes:
    """How to pass batches of the size of ``x`` (B, C, H, W) through a network.

    repeats: how often this work will do that, beyond what ``choosing`` says.
    """
    usual = Form(chunk=chunk_size(network, x, twice=kind == "second"))
    if (forced := _forced.get()) is not None:
        return Passes(network, forced(network, usual))
    choices = _choices.get()
    return Passes(network, usual if choices is None else choices.form(network, x, kind, usual, repeats))


class Chooser(Protocol):
    """Chooses forms for passes."""

    def form(self, network: nn.Module, x: Tensor, kind: Kind, usual: Form, repeats: int) -> Form: ...


_choices: ContextVar[Chooser | None] = ContextVar("choices", default=None)
_forced: ContextVar[Callable[[nn.Module, Form], Form] | None] = ContextVar("forced", default=None)


@contextmanager
def forcing(**changes: Any) -> Iterator[None]:
    """Inside, all passes have the usual form with these changes; ``chunk`` only where images are independent."""
    def changed(network: nn.Module, usual: Form) -> Form:
        fixed = {"chunk": usual.chunk} if couples_samples(network) else {}
        return usual.model_copy(update={**changes, **fixed})

    token = _forced.set(changed)
    try:
        yield
    finally:
        _forced.reset(token)
