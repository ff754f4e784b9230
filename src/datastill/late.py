"""torch, imported when it is first used, so that names, help and refusals do not wait for it (it takes seconds).

A module that describes something takes ``torch``, ``nn`` and ``F`` from here; classes derived from torch's live in modules
of their own, which are imported where they are made.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import nn
else:
    class _Late:
        """Stands for a module."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(sys.modules.get(self._name) or importlib.import_module(self._name), attribute)

    torch, nn, F = _Late("torch"), _Late("torch.nn"), _Late("torch.nn.functional")

__all__ = ["F", "nn", "torch"]
