"""torch, imported on first use, so that names, help and input errors do not wait for it (importing it takes seconds).

Modules with descriptions take ``torch``, ``nn`` and ``F`` from here; subclasses of torch classes live in modules of their
own, which are imported where they are instantiated.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import nn
else:
    class _Late:
        """Stand-in for a module."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(sys.modules.get(self._name) or importlib.import_module(self._name), attribute)

    torch, nn, F = _Late("torch"), _Late("torch.nn"), _Late("torch.nn.functional")

P = ParamSpec("P")
R = TypeVar("R")


def no_grad(function: Callable[P, R]) -> Callable[P, R]:
    """``torch.no_grad`` as a decorator that does not import torch before the function is called."""
    @functools.wraps(function)
    def without(*arguments: P.args, **options: P.kwargs) -> R:
        with torch.no_grad():
            return function(*arguments, **options)
    return without


__all__ = ["F", "nn", "no_grad", "torch"]
