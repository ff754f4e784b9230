"""Networks by name: ``convnet:width=32,norm=batch``. Each gives logits, ``embed(x)`` and named feature maps."""

from datastill.nets.network import Architecture, Network, as_function, chunk_size, couples_samples, fresh, look

__all__ = ["Architecture", "Network", "as_function", "chunk_size", "couples_samples", "fresh", "look"]
