"""datastill: distill a dataset into a few images per class, and report honestly how good they are.

>>> import datastill as ds
>>> train, _, test = ds.Data(source="digits").load(".")             # comes with scikit-learn
>>> network = "convnet:width=4,depth=2"
>>> distilled = ds.distill(ds.DM(iterations=2, batch_real=8), train, "run", ipc=1, network=network)
>>> distilled.x.shape
torch.Size([10, 1, 8, 8])
>>> len(ds.score("run", test, protocol="dc:epochs=1", trials=1))
1
"""

# ruff: noqa: F401 - the names under TYPE_CHECKING are for type checkers, the others are resolved lazily

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "artifact": ["load"],
    "core": ["Group", "Labeler", "Method", "Optim", "Plugin", "Protocol", "Step"],
    "data": ["Batch", "Data", "Images", "Source", "Splits"],
    "description": ["Description", "Family"],
    "distilled": ["Distilled"],
    "errors": ["InputError", "RunError", "Stopped"],
    "methods.attention": ["AttentionMatching"],
    "methods.coreset": ["Coreset"],
    "methods.distribution": ["DistributionMatching"],
    "methods.gradient": ["GradientMatching"],
    "methods.ranked": ["Ranked"],
    "methods.rded": ["RDED"],
    "methods.recover": ["Recover"],
    "methods.trajectory": ["TrajectoryMatching"],
    "nets": ["Architecture", "Network"],
    "parametrization": ["Parametrization"],
    "parametrizations.latent": ["Latent"],
    "parametrizations.pixels": ["Pixels"],
    "parametrizations.tiles": ["Tiles"],
    "plugins.cclom": ["CCLoM"],
    "plugins.clom": ["CLoM"],
    "plugins.metadd": ["MetaDD"],
    "plugins.sdc": ["SDC"],
    "plugins.total_variation": ["TotalVariation"],
    "progress": ["Progress"],
    "registry": ["find"],
    "rng": ["RNG"],
    "run": ["Run"],
    "running": ["distill"],
    "scores": ["Scores", "score"],
    "scoring": ["Evaluation", "Score", "evaluate"],
    "shards": ["merge"],
    "synthetic": ["SyntheticSet"],
    "task": ["Task"],
    "teachers.classifier": ["Classifier"],
    "teachers.early": ["Early"],
    "teachers.experts": ["Experts"],
    "teachers.pretrained": ["Pretrained"],
    "teachers.probed": ["Probed"],
    "teachers.self_supervised": ["SelfSupervised"],
    "teachers.supervised": ["Supervised"],
    "workspace": ["Workspace"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_PRESETS = {name: name.lower() for name in ("DM", "IDM", "DC", "DSA", "DSAC", "IDC", "DataDAM", "MTT", "TESLA", "FTD",
                                            "DATM", "SRe2L", "CDA", "LPLD", "SCDD", "SRe2L_PP", "FADRM")}
_MODULES = ["losses"]
__all__ = sorted([*_HOME_OF, *_PRESETS, *_MODULES])  # noqa: PLE0605

if TYPE_CHECKING:
    from datastill import losses
    from datastill.artifact import load
    from datastill.core import Group, Labeler, Method, Optim, Plugin, Protocol, Step
    from datastill.data import Batch, Data, Images, Source, Splits
    from datastill.description import Description, Family, Preset
    from datastill.distilled import Distilled
    from datastill.errors import InputError, RunError, Stopped
    from datastill.methods.attention import AttentionMatching
    from datastill.methods.coreset import Coreset
    from datastill.methods.distribution import DistributionMatching
    from datastill.methods.gradient import GradientMatching
    from datastill.methods.ranked import Ranked
    from datastill.methods.rded import RDED
    from datastill.methods.recover import Recover
    from datastill.methods.trajectory import TrajectoryMatching
    from datastill.nets import Architecture, Network
    from datastill.parametrization import Parametrization
    from datastill.parametrizations.latent import Latent
    from datastill.parametrizations.pixels import Pixels
    from datastill.parametrizations.tiles import Tiles
    from datastill.plugins.cclom import CCLoM
    from datastill.plugins.clom import CLoM
    from datastill.plugins.metadd import MetaDD
    from datastill.plugins.sdc import SDC
    from datastill.plugins.total_variation import TotalVariation
    from datastill.progress import Progress
    from datastill.registry import find
    from datastill.rng import RNG
    from datastill.run import Run
    from datastill.running import distill
    from datastill.scores import Scores, score
    from datastill.scoring import Evaluation, Score, evaluate
    from datastill.shards import merge
    from datastill.synthetic import SyntheticSet
    from datastill.task import Task
    from datastill.teachers.classifier import Classifier
    from datastill.teachers.early import Early
    from datastill.teachers.experts import Experts
    from datastill.teachers.pretrained import Pretrained
    from datastill.teachers.probed import Probed
    from datastill.teachers.self_supervised import SelfSupervised
    from datastill.teachers.supervised import Supervised
    from datastill.workspace import Workspace

    DM = IDM = DC = DSA = DSAC = IDC = DataDAM = MTT = TESLA = FTD = DATM = Preset(Method, "dm")
    SRe2L = CDA = LPLD = SCDD = SRe2L_PP = FADRM = Preset(Method, "sre2l")


def __getattr__(name: str) -> Any:
    """Load public names on first use, so that ``import datastill`` and ``datastill --help`` do not wait for torch."""
    if name in _MODULES:
        return importlib.import_module(f"datastill.{name}")
    if name in _PRESETS:
        return _preset(_PRESETS[name])
    if name not in _HOME_OF:
        raise AttributeError(f"module 'datastill' has no attribute {name!r}")
    return getattr(importlib.import_module(f"datastill.{_HOME_OF[name]}"), name)


def _preset(name: str) -> Any:
    from datastill.core import Method
    from datastill.description import Preset
    return Preset(Method, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
