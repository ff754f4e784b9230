"""DC, DSA, DSAC and IDC: match a network's gradients on real and synthetic images while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from datastill.core import Group, Method, Optim, Step
from datastill.data import Batch, Images
from datastill.digest import spec
from datastill.errors import InputError
from datastill.functional.augment import STRATEGY, Strategy, augment_classes
from datastill.functional.distances import GradientMetric, Layers, gradient_distance, gradient_norm
from datastill.late import F, nn, torch
from datastill.methods._range import check_range, keep_in_range
from datastill.methods._real_training import RealTraining
from datastill.nets import Architecture, couples_samples, fresh, passes
from datastill.rng import RNG
from datastill.task import Task
from datastill.train import Fixed, augmented, fit

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.synthetic import SyntheticSet

LOOPS = {10: 50, 20: 25, 30: 20, 40: 15, 50: 10, 100: 2}  # ipc -> inner epochs, the authors' values; outer = ipc
OUTER_REAL = 100  # the authors' steps where networks are trained on real images (IDC)
WARM_UP = 16  # real images of each class that set the statistics of batch normalization


class GradientMatching(Method):
    """Gradient matching: DC (Zhao, Mopuri & Bilen 2021, ICLR), with ``augment`` DSA (Zhao & Bilen 2021, ICML), and with
    ``real`` IDC (Kim et al. 2022, ICML).

    Each iteration draws a network and takes ``outer`` steps: for every class, the gradient of the loss on ``batch_real``
    real images is compared with that on the synthetic ones; between two steps the network is trained for ``inner`` epochs
    on the synthetic images, or on real ones. Batch normalization statistics are set from real images and then frozen.

    outer, inner: 0 uses the authors' loops for 1, 10, 20, 30, 40, 50 and 100 images per class; in between, outer is ipc and
        inner is interpolated (ours); with ``real``, outer is 100.
    networks: architectures of which one is drawn for every iteration, instead of the run's (a model pool).
    metric, layers: see ``losses.gradient_distance``; layers "convolutions" leaves out the other weights, as IDC does.
    augment: a DSA strategy, shared by the real and synthetic images of a class; "none" for DC.
    init: DC starts from noise, DSA from real images.
    contrast: match all classes at once: the gradient on all synthetic images against the mean over classes of those on real
        ones, so that classes are contrasted with each other (DCC, Lee et al. 2022; with ``augment`` DSAC). Used from
        iteration ``warm_up`` on, and before that from step ``warm_up_steps`` of each iteration on; until then per class.
    real: train the network on real images instead (IDC); ``inner``, ``lr_net`` and ``batch_train`` then have no effect.
        batch_syn: at most so many synthetic images of a class are compared in a step, drawn at random; 0: all. clamp: pixels
        are kept within the range of real images from one iteration to the next.

    IDC's code updates after every class, we once for all classes, as in DC; only how momentum spreads differs. Its pixels go
    from 0 to 1, so in our recipes its learning rates are divided by the mean variance of the data's channels. The
    parametrization (``tiles``) is set by the recipe; without it this is IDC-I.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "dc": {}, "dsa": {"augment": STRATEGY, "init": "real"},
        "dsac": {"augment": STRATEGY, "init": "real", "contrast": True},
        "idc": {"augment": "idc_color_crop_cutout", "init": "real", "iterations": 2000, "batch_real": 64, "batch_syn": 128,
                "metric": "mse", "layers": "convolutions", "clamp": True,
                "real": {"augment": "idc_color_crop", "cutmix": 0.5}, "optim": {"images": {"lr": 0.124}}}}
    provides = frozenset({"gradient_norms"})

    networks: tuple[Architecture, ...] = ()
    iterations: int = Field(default=1000, ge=0, le=10**9)
    batch_real: int = Field(default=256, ge=1)
    outer: int = Field(default=0, ge=0, le=10**5)
    inner: int = Field(default=0, ge=0, le=10**5)
    metric: GradientMetric = "layerwise"
    layers: Layers = "all"
    augment: Strategy = "none"
    init: Literal["noise", "real"] = "noise"
    lr_net: float = Field(default=0.01, gt=0.0)
    batch_train: int = Field(default=256, ge=1)
    contrast: bool = False
    warm_up: int = Field(default=250, ge=0)
    warm_up_steps: int = Field(default=10, ge=0)
    real: RealTraining | None = None
    batch_syn: int = Field(default=0, ge=0)
    clamp: bool = False
    optim: Optim = Optim(images=Group(lr=0.1, momentum=0.5))

    @model_validator(mode="after")
    def _trains_once(self) -> Self:
        if self.real is not None and self.inner:
            raise ValueError(f"inner {self.inner}: epochs on synthetic images, but networks are trained on real ones "
                             "(method.real); leave one of them out")
        return self

    def check(self, task: Task, ipc: int) -> None:
        task.check_among(self.networks)
        if self.layers == "convolutions":
            for one in self.networks or (task.network,):
                net = fresh(one, task.real.shape, task.classes, RNG("check"), task.device)
                if not any(weight.dim() == 4 for weight in net.parameters()):
                    raise InputError(f"method.layers=convolutions: network {spec(one)} has none; use method.layers=all, or "
                                     "another network")
        if self.clamp:
            check_range(task)

    def start(self, task: Task, ipc: int, rng: RNG) -> SyntheticSet:
        return task.synthetic(task.first_images(ipc, self.init, rng), rng=rng("encode"))

    def iterate(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> Iterator[Step]:
        net = task.fresh_among(self.networks, rng("network"))
        outer, inner = self.loops(synthetic.ipc)
        lesson = None if self.real is None else self.real.training(net, task.real, rng("inner"), outer - 1)
        if self.clamp:
            keep_in_range(synthetic, task)
        for number in range(outer):
            together = self.contrast and (iteration >= self.warm_up or number >= self.warm_up_steps)
            yield self._match(net, synthetic, task, rng("outer", number), together)
            if number == outer - 1:
                return
            if lesson is None:
                self._train(net, synthetic, inner, rng("inner", number))
            else:
                lesson.advance()
                lesson.check()

    def rehearsal(self, task: Task, ipc: int) -> tuple[Method, Images, float]:
        _, few, longer = super().rehearsal(task, ipc)
        outer, inner = self.loops(ipc)
        steps = min(outer, 2)  # with the training between them
        return self.model_copy(update={"outer": steps, "inner": inner}), few, longer * outer / steps

    def loops(self, ipc: int) -> tuple[int, int]:
        """(outer steps, inner epochs) for this many stored images per class."""
        if self.real is not None:
            return self.outer or OUTER_REAL, 0
        inner = 1 if ipc == 1 else round(float(np.interp(ipc, list(LOOPS), list(LOOPS.values()))))
        return self.outer or ipc, self.inner or inner

    def _match(self, net: nn.Module, synthetic: SyntheticSet, task: Task, rng: RNG, together: bool) -> Step:
        if couples_samples(net.train()):
            _set_normalization(net, task, rng("normalisation"))
        parameters = [p for p in net.parameters() if p.requires_grad]
        batch = synthetic.batch(self._rows(synthetic, task, rng("synthetic")))
        real = self._by_class(task.real_batch(self.batch_real, rng("real")), rng)
        fake = self._by_class(batch, rng)
        if together:
            return self._match_together(net, parameters, batch, real, fake)
        distances, norms = [], []
        for theirs, mine in zip(real, fake, strict=True):
            wanted = _real_gradient(net, parameters, theirs)
            found = torch.autograd.grad(F.cross_entropy(_whole(net, mine.x), mine.y), parameters, create_graph=True)
            distances.append(gradient_distance(found, wanted, self.metric, self.layers))
            norms.append(gradient_norm(found))
        return Step(torch.stack(distances).sum(), batch, net, gradient_norms=torch.stack(norms))

    def _match_together(self, net: nn.Module, parameters: list[nn.Parameter], batch: Batch, real: list[Batch],
                        fake: list[Batch]) -> Step:
        gradients = [_real_gradient(net, parameters, theirs) for theirs in real]
        wanted = [torch.stack(layer).mean(0) for layer in zip(*gradients, strict=True)]
        x, y = torch.cat([mine.x for mine in fake]), torch.cat([mine.y for mine in fake])
        found = torch.autograd.grad(F.cross_entropy(_whole(net, x), y), parameters, create_graph=True)
        distance = gradient_distance(found, wanted, self.metric, self.layers)
        return Step(distance, batch, net, gradient_norms=gradient_norm(found)[None])

    def _rows(self, synthetic: SyntheticSet, task: Task, rng: RNG) -> Tensor | None:
        """The synthetic images of a step; None for all."""
        each = len(synthetic) // len(task.here)
        if not 0 < self.batch_syn < each:
            return None
        drawn = [number * each + rng(c).permutation(each)[:self.batch_syn] for number, c in enumerate(task.here)]
        return torch.cat(drawn).to(task.device)

    def _by_class(self, batch: Batch, rng: RNG) -> list[Batch]:
        """The batch split by class, each part with its own augmentation, shared by real and synthetic images."""
        label, classes = batch.y.argmax(1), batch.y.shape[1]
        x = augment_classes(batch.x, batch.y, rng("augment"), self.augment)
        order, counts = label.argsort(stable=True), torch.bincount(label, minlength=classes).tolist()
        return [Batch(*part) for part in zip(x[order].split(counts), batch.y[order].split(counts), strict=True)]

    def _train(self, net: nn.Module, synthetic: SyntheticSet, epochs: int, rng: RNG) -> None:
        with torch.no_grad():
            examples = augmented(Fixed(synthetic.batch()), self.augment)  # which may be the learned tensors themselves
        fit(net, examples, [self.lr_net] * epochs, rng, batch_size=self.batch_train, momentum=0.0, weight_decay=0.0)


def _whole(net: nn.Module, x: Tensor) -> Tensor:
    """Logits of all images in one pass, whose gradient will be differentiated."""
    how = passes(net, x, "second")
    return how.logits(how.laid_out(x))


def _real_gradient(net: nn.Module, parameters: list[nn.Parameter], batch: Batch) -> list[Tensor]:
    """Gradient of the mean cross-entropy with respect to the parameters, summed over chunks of images."""
    how = passes(net, batch.x, "weights")
    total: list[Tensor] = []
    for x, y in how.split(batch.x, batch.y):
        loss = F.cross_entropy(how.logits(x), y, reduction="sum") / len(batch.x)
        part = torch.autograd.grad(loss, parameters)
        total = [a + b for a, b in zip(total, part, strict=True)] if total else list(part)
    return total


def _set_normalization(net: nn.Module, task: Task, rng: RNG) -> None:
    """One forward of real images in training mode; then batch normalization uses its running statistics."""
    with torch.no_grad():
        net(task.random_real(WARM_UP, rng).x)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
