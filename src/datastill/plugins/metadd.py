"""MetaDD: synthetic images in which networks of several architectures see the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from datastill.core import Plugin, Step
from datastill.digest import spec
from datastill.errors import InputError
from datastill.functional.chunks import of_networks
from datastill.functional.invariance import distillation, evidence, map_variance
from datastill.late import F, no_grad, torch
from datastill.nets import Architecture
from datastill.nets.convnet import ConvNet
from datastill.nets.resnet18 import ResNet18
from datastill.nets.vgg11 import VGG11
from datastill.nets.vit import ViT
from datastill.registry import kind
from datastill.rng import RNG
from datastill.tables import counted
from datastill.task import Task
from datastill.teachers import Pool, Teacher
from datastill.teachers._maps import check_maps, look
from datastill.teachers.supervised import Supervised

if TYPE_CHECKING:
    from torch import Tensor

    Outputs = list[tuple[Tensor, ...]]

FOUR: tuple[Architecture, ...] = (ConvNet(), ResNet18(), VGG11(), ViT())


class MetaDD(Plugin):
    """Architecture-invariant features (Zhao et al. 2024, "MetaDD: Boosting Dataset Distillation with Neural Network
    Architecture-Invariant Generalization", arXiv 2410.05103), with M frozen networks of several architectures:

        variance * L_var + classification * L_ce + sign * distillation * L_kd + evidence * L_pos

    L_var: variance of their activation maps of the synthetic images, Grad-CAM or attention (``losses.map_variance``). L_ce:
    their cross-entropy, summed over networks. L_kd: T^2 KL(backbone || network), summed. L_pos: how little they see.

    The authors' code is not public, and the text was known to us only from reviews that quote it. The set of terms is the
    paper's; the direction and sign of L_kd are inferred, L_pos is our reconstruction, and weights are not known. By default
    all are 1, and the sum has a fifth of the method's gradient (``weight``, ``balance``; ours).

    pool: the networks, of at least two architectures, or of one with ``variance=0``. The paper takes GoogLeNet, ResNet-34,
        ViT-B-16 and one that we do not know; the default here is of four that fit small images.
    backbone: the frozen network for L_kd; by default the run's own, trained like the pool.
    match: what has to agree: "maps", or as controls (ours) "logits", the variance of predicted probabilities, or
        "features", that of the cosines between the features of every two images.
    layer: the feature map of each network that is looked at, by default the deepest of at least 4 x 4 places, for vision
        transformers their attention. through_weights: the gradient through the weights of Grad-CAM too, which takes second
        derivatives. skip_flat: maps in which nothing is seen do not count in L_var (ours).
    images: how many of a step's images are looked at, drawn at random; 0: all.

    The log has the values of several terms apart, before their weights: ``metadd.variance`` and so on.
    """

    weight: float = Field(default=0.2, ge=0.0)
    balance: Literal["fixed", "gradient", "start"] = "gradient"
    pool: Pool = Supervised(networks=FOUR, count=1)
    backbone: Pool = Supervised(networks=(), count=1)
    variance: float = Field(default=1.0, ge=0.0)
    classification: float = Field(default=1.0, ge=0.0)
    distillation: float = Field(default=1.0, ge=0.0)
    sign: Literal[1, -1] = 1
    evidence: float = Field(default=1.0, ge=0.0)
    temperature: float = Field(default=1.0, ge=0.01, le=1e3)
    match: Literal["maps", "logits", "features"] = "maps"
    layer: tuple[str, ...] = ()
    through_weights: bool = True
    skip_flat: bool = False
    images: int = Field(default=0, ge=0)

    def check(self, task: Task, ipc: int) -> None:
        pool, context = self.pool.for_network(task.network), task.context
        if self.variance and len({*pool.networks}) < 2:
            raise InputError("metadd: what networks see alike takes at least two architectures, the pool has "
                             f"{', '.join(map(spec, pool.networks))}; add others to plugins.metadd.pool.networks, or set "
                             "plugins.metadd.variance=0")
        if self.layer and len(self.layer) != len(pool.networks):
            raise InputError(f"metadd: layer has {counted(len(self.layer), 'name')} for {len(pool.networks)} networks; give "
                             "one each, \"\" for the deepest")
        if self.variance and self.match == "features" and self.images == 1:
            raise InputError("metadd: match=features compares pairs of images, so one image of a step has no variance; set "
                             "plugins.metadd.images to 0 (all) or to 2 or more")
        if any(self.layer) and not self._looks:
            raise InputError(f"metadd: layer says where to look, but with match={self.match} and evidence=0 no maps are "
                             "looked at; leave it out")
        if not any((self.variance, self.classification, self.distillation, self.evidence)):
            raise InputError("metadd: all terms have the weight 0; leave the plug-in out, or set one of them")
        pool.check(context, {"class_logits"})
        if self.distillation:
            backbone = self.backbone.for_network(task.network)
            if (several := len(backbone.networks) * backbone.size) > 1:
                raise InputError(f"metadd: backbone is the one network that the others follow, this has {several}; name one "
                                 "in plugins.metadd.backbone.networks, and set plugins.metadd.backbone.count=1")
            backbone.check(context, {"class_logits"})
        if self._looks:
            try:
                check_maps(pool, context, self.layer)
            except InputError as error:
                more = "" if self.match == "maps" and self.variance else \
                    "; maps are looked at for evidence only, plugins.metadd.evidence=0 leaves it out"
                raise InputError(f"{error} (plugins.metadd.layer names a layer for each network){more}") from None

    def prepare(self, task: Task) -> Mapping[str, Any]:
        facts = []
        for pool in (self.pool, *([self.backbone] if self.distillation else [])):
            named = pool.for_network(task.network)
            named.prepare(task.context)
            facts += named.facts(task.context)
        return {"teachers": facts}

    def loss(self, step: Step, task: Task, rng: RNG) -> Tensor:
        x, y = step.batch
        if 0 < self.images < len(x):
            rows = rng("images").permutation(len(x))[:self.images].to(x.device)
            x, y = x[rows], y[rows]
        teachers = list(task.teachers(self.pool))
        known = self._known(task, x.detach()) if self.distillation else None
        outputs = [self._outputs(teacher, y.argmax(1)) for teacher in teachers]
        terms: dict[str, Tensor] = {}

        def total(found: Outputs) -> Tensor:
            terms.update(self._terms(found, y, known))
            return torch.stack([getattr(self, name) * one for name, one in terms.items()]).sum()

        value = of_networks(outputs, total, x, [one.chunk(x) for one in teachers])
        if len(terms) > 1:
            step.log.update({f"{self.label or kind(self)}.{name}": float(one.detach()) for name, one in terms.items()})
        return value

    @property
    def _looks(self) -> bool:
        """Whether activation maps are needed."""
        return bool(self.evidence or (self.variance and self.match == "maps"))

    def _outputs(self, teacher: Teacher, targets: Tensor) -> Callable[[Tensor, slice], tuple[Tensor, ...]]:
        """What is needed of a network, by part of the images: logits of the run's classes, maps or else nothing, features or
        else nothing."""
        layer = self.layer[teacher.group] if self.layer else ""

        def of(x: Tensor, rows: slice) -> tuple[Tensor, ...]:
            nothing = x.new_zeros(len(x), 0)
            maps, logits = look(teacher, x, targets[rows], layer, self.through_weights) if self._looks else \
                (nothing, teacher.class_logits(x))
            features = teacher.embed(x) if self.variance and self.match == "features" else nothing
            return logits, maps, features
        return of

    def _terms(self, found: Outputs, y: Tensor, known: Tensor | None) -> dict[str, Tensor]:
        """The terms of weights above 0, by the name of their weight."""
        logits, maps, features = zip(*found, strict=True)
        terms = {}
        if self.variance:
            terms["variance"] = self._variance(logits, maps, features)
        if self.classification:
            terms["classification"] = torch.stack([F.cross_entropy(one, y) for one in logits]).sum()
        if known is not None:
            terms["distillation"] = self.sign * torch.stack([distillation(one, known, self.temperature)
                                                             for one in logits]).sum()
        if self.evidence:
            terms["evidence"] = evidence(torch.stack(maps))
        return terms

    def _variance(self, logits: Sequence[Tensor], maps: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
        if self.match == "maps":
            return map_variance(torch.stack(list(maps)), self.skip_flat)
        if self.match == "logits":
            several = torch.stack([one.softmax(1) for one in logits])
        else:
            directions = [F.normalize(one, dim=1) for one in features]
            several = torch.stack([one @ one.T for one in directions])
        return (several - several.mean(0)).square().mean()

    @no_grad
    def _known(self, task: Task, x: Tensor) -> Tensor:
        """The backbone's logits (B, K)."""
        (teacher,) = task.teachers(self.backbone)
        return torch.cat([teacher.class_logits(part) for part in x.split(teacher.chunk(x))])
