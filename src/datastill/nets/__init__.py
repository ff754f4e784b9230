"""Networks by name: ``convnet:width=32,norm=batch``. Each provides logits, ``embed(x)`` and named feature maps."""

from typing import TYPE_CHECKING, Any

from datastill.nets.choices import choosing
from datastill.nets.forms import Passes, forcing, passes
from datastill.nets.network import (
    Architecture,
    as_function,
    check_network,
    chunk_size,
    couples_samples,
    fresh,
    guard_network,
    look,
    origin,
)

if TYPE_CHECKING:
    from datastill.nets._network import Network

__all__ = ["Architecture", "Network", "Passes", "as_function", "check_network", "choosing", "chunk_size", "couples_samples",
           "forcing", "fresh", "guard_network", "look", "origin", "passes"]


def __getattr__(name: str) -> Any:
    """Import ``Network`` lazily: it derives from torch's class, and torch is imported only when it is used."""
    if name != "Network":
        raise AttributeError(f"module 'datastill.nets' has no attribute {name!r}")
    from datastill.nets._network import Network
    return Network
