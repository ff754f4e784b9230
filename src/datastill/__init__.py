"""datastill: distill a dataset into a few images per class, and say honestly how good they are.

>>> import datastill as ds
>>> run = ds.Run(method="distribution:iterations=2,batch_real=8", network="convnet:width=4,depth=2", ipc=1)
>>> images = run.data.load(".")                            # scikit-learn's digits, embedded
>>> synthetic = ds.distill(run, images.train, "run")
>>> synthetic.batch().x.shape
torch.Size([10, 1, 8, 8])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "artifact": ["Distilled", "load"],
    "config": ["Description", "Family", "find"],
    "core": ["Group", "Labeler", "Method", "Optim", "Plugin", "Protocol", "Step", "Task"],
    "data": ["Batch", "Data", "Images", "Source", "Splits"],
    "errors": ["InputError", "RunError"],
    "scoring": ["Score", "evaluate"],
    "nets": ["Architecture", "Network"],
    "rng": ["RNG"],
    "run": ["Run", "distill"],
    "synthetic": ["Parametrization", "SyntheticSet"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = [
    "RNG",
    "Architecture",
    "Batch",
    "Data",
    "Description",
    "Distilled",
    "Family",
    "Group",
    "Images",
    "InputError",
    "Labeler",
    "Method",
    "Network",
    "Optim",
    "Parametrization",
    "Plugin",
    "Protocol",
    "Run",
    "RunError",
    "Score",
    "Source",
    "Splits",
    "Step",
    "SyntheticSet",
    "Task",
    "distill",
    "evaluate",
    "find",
    "load",
]

if TYPE_CHECKING:
    from datastill.artifact import Distilled, load
    from datastill.core import Group, Labeler, Method, Optim, Plugin, Protocol, Step, Task
    from datastill.data import Batch, Data, Images, Source, Splits
    from datastill.description import Description, Family
    from datastill.errors import InputError, RunError
    from datastill.nets import Architecture, Network
    from datastill.registry import find
    from datastill.rng import RNG
    from datastill.run import Run, distill
    from datastill.scoring import Score, evaluate
    from datastill.synthetic import Parametrization, SyntheticSet


def __getattr__(name: str) -> Any:
    """Public names load on first use, so that ``import datastill`` and ``datastill --help`` do not wait for torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'datastill' has no attribute {name!r}")
    return getattr(importlib.import_module(f"datastill.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
