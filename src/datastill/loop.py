"""The distillation loop: ask the method for a step, add the plug-ins' terms, update the synthetic set."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from datastill.core import Method, Plugin, Step, Task
from datastill.digest import spec
from datastill.errors import InputError, RunError
from datastill.late import torch
from datastill.previous import Previous
from datastill.registry import kind
from datastill.rng import RNG
from datastill.tables import nearest

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.synthetic import SyntheticSet

OWN = {"method", "iteration", "loss", "time"}  # names in a log line that are not a plug-in's or a method's
MEASURE = 100  # iterations between measurements of gradient norms, each a backward pass per term
SMALLEST_LR = 1e-6  # a learned learning rate is projected to at least this after each update


class Loop:
    """The state of a run between two iterations, and the step to the next one.

    What changes: ``synthetic``, the optimizer, ``iteration``, ``ratios`` (of plug-ins balanced by gradient), ``mean`` (the
    running mean of the image parameters, if enabled). ``state`` and ``restore`` cover exactly these, so that a resumed run
    is bit for bit the same as an uninterrupted one on a deterministic device: a CPU always, a GPU on request
    (``compute.computing``).
    """

    def __init__(self, method: Method, plugins: Mapping[str, Plugin], task: Task, rng: RNG, ipc: int, *,
                 place: Task | None = None, previous: Previous | None = None) -> None:
        """``ipc``: stored images per class. ``place``: the part of the task whose images it starts from, if not all.
        ``previous``: a finished set it continues from, for the images that set has."""
        self.method, self.plugins, self.task, self.rng = method, plugins, task, rng
        self.synthetic = _checked(method.start(place or task, ipc, rng("start")), method, task, ipc)
        if previous is not None:
            previous.into(self.synthetic)
        self.learned = {name: parameter.requires_grad_() for name, parameter in self.synthetic.groups().items()
                        if method.optim.group(name).lr > 0}
        self.optimizer = self._optimizer() if self.learned and method.iterations else None
        self.iteration = 0
        self.ratios: dict[str, float] = {}
        self.said: set[str] = set()  # warnings already shown
        self.mean: dict[str, Tensor] = {} if method.optim.ema is None else {
            name: parameter.detach().clone() for name, parameter in self.synthetic.images.items()}

    def _optimizer(self) -> torch.optim.Optimizer:
        optim = self.method.optim
        groups: list[dict[str, Any]] = []
        for name, parameter in self.learned.items():
            group = optim.group(name)
            own = {"momentum": group.momentum} if optim.name == "sgd" else {"betas": (group.momentum, optim.beta2)}
            groups.append({"params": [parameter], "lr": group.lr, "base_lr": group.lr, **own})
        return torch.optim.SGD(groups) if optim.name == "sgd" else torch.optim.Adam(groups)

    def advance(self) -> dict[str, Any]:
        """One iteration. Returns its log line: means over its steps of every term, gradient shares if measured.

        Raises RunError naming the term if a loss or a gradient is not finite; do not use the synthetic set after that.
        """
        rng = self.rng("iteration", self.iteration)
        lines: list[dict[str, float]] = []
        with rng("inside").as_global(self.task.device):  # what networks draw themselves, such as dropout
            steps = self.method.iterate(self.iteration, self.synthetic, self.task, rng("method"))
            if not isinstance(steps, Iterator):
                raise InputError(f"{kind(self.method)}.iterate returned {type(steps).__name__}; it must yield steps")
            for number, step in enumerate(steps):
                lines.append(self._apply(step, rng("step", number), measure=number == 0 and self.iteration % MEASURE == 0))
                self._warn(step.caution)
        self.iteration += 1
        keys = dict.fromkeys(key for line in lines for key in line)
        means = {key: sum(values) / len(values) for key in keys
                 if (values := [line[key] for line in lines if key in line])}
        return {"iteration": self.iteration, **means}

    def _apply(self, step: Step, rng: RNG, measure: bool) -> dict[str, float]:
        losses = {"method": step.loss}
        for name, plugin in self.plugins.items():
            if self._counts(plugin, measure):
                losses[name] = _scalar(plugin.loss(step, self.task, rng("plugin", name)), name)
        shares: dict[str, float] = {}
        if measure:
            self._see_finite(_read(losses))
            norms = self._gradient_norms(losses, step)
            for name in losses:
                if name != "method" and self.plugins[name].balance == "gradient" and norms[name] > 0:
                    self.ratios[name] = norms["method"] / norms[name]
            shares = _shares({name: self._weight(name) * norms[name] for name in losses})
        weights = {name: self._weight(name) for name in losses}
        total = torch.stack([weights[name] * loss for name, loss in losses.items() if weights[name]]).sum()
        *values, whole = _read({**losses, "loss": total}).values()
        line = dict(zip(losses, values, strict=True))
        self._see_finite(line)
        if twice := sorted({*step.log} & {*self.plugins, *OWN}):
            raise InputError(f"{kind(self.method)} logs {twice[0]!r}, the name of a plug-in or of the log's own; give the "
                             "plug-in another label, or the log another key")
        line |= {**step.log, "method": line["method"] if step.value is None else step.value, **shares, "loss": whole}
        if step.apply and self.optimizer is not None:
            self._update(total, list(losses))
            if "inner_lr" in self.learned and float(self.learned["inner_lr"].detach()) <= SMALLEST_LR:
                line["lr_at_bound"] = 1.0
                self._warn("the learned learning rate is at its lower bound, where the images hardly change; lower "
                           "method.optim.inner_lr.lr, or start from another method.lr_net")
        return line

    def _counts(self, plugin: Plugin, measure: bool) -> bool:
        """Whether a plug-in is asked: it has a weight now, or its gradient is measured for later."""
        now = plugin.factor(self.iteration, self.method.iterations) > 0 or (measure and plugin.balance == "gradient")
        return plugin.weight > 0 and now

    def _warn(self, caution: str) -> None:
        """Show a warning, once per run."""
        if caution and caution not in self.said:
            self.said.add(caution)
            self.task.progress.warn(caution)

    def _weight(self, name: str) -> float:
        """The current weight of a term."""
        if name == "method":
            return 1.0
        plugin = self.plugins[name]
        ratio = self.ratios.get(name, 0.0) if plugin.balance == "gradient" else 1.0
        return plugin.weight * plugin.factor(self.iteration, self.method.iterations) * ratio

    def _gradient_norms(self, losses: Mapping[str, Tensor], step: Step) -> dict[str, float]:
        """Norm of each term's gradient at the decoded images; 0 for a term that does not depend on them."""
        found = {}
        for name, loss in losses.items():
            if loss.requires_grad and step.batch.x.requires_grad:
                (gradient,) = torch.autograd.grad(loss, step.batch.x, retain_graph=True, allow_unused=True)
                if gradient is not None:
                    found[name] = gradient.norm()
        norms = dict.fromkeys(losses, 0.0) | _read(found)
        self._see_finite(norms, "gradient")
        return norms

    def _update(self, total: Tensor, terms: list[str]) -> None:
        assert self.optimizer is not None
        parameters = list(self.learned.values())
        gradients = dict(zip(self.learned, torch.autograd.grad(total, parameters, allow_unused=True), strict=True))
        finite = _read({name: torch.isfinite(one).all() for name, one in gradients.items() if one is not None})
        for (name, gradient), parameter in zip(gradients.items(), parameters, strict=True):
            if not finite.get(name, True):
                raise self._diverged(f"the gradient of {' + '.join(terms)} with respect to {name}")
            parameter.grad = gradient
            if (longest := self.method.optim.group(name).clip) is not None:
                torch.nn.utils.clip_grad_norm_(parameter, longest)
        factor = self.method.optim.factor(self.iteration, self.method.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            if self.synthetic.lr is not None:
                self.synthetic.lr.clamp_(min=SMALLEST_LR)
            for name, mean in self.mean.items():
                mean.lerp_(self.synthetic.images[name], 1 - (self.method.optim.ema or 0.0))

    def _see_finite(self, values: Mapping[str, float], what: str = "loss") -> None:
        for name, value in values.items():
            if not abs(value) < float("inf"):
                raise self._diverged(f"the {what} of {name} is {value}")

    def _diverged(self, what: str) -> RunError:
        verb = "" if " is " in what else " is not finite"
        lr, inner = self.method.optim.images.lr, self.synthetic.lr
        learned = "" if inner is None else f", or of the inner training (now {float(inner.detach()):g}, learned at " \
                                           f"method.optim.inner_lr.lr {self.method.optim.inner_lr.lr:g})"
        return RunError(f"stopped at iteration {self.iteration}: {what}{verb}; the last good checkpoint is kept. Try a "
                        f"smaller learning rate (method.optim.images.lr is {lr:g}{learned})"
                        + (" or a smaller plug-in weight" if self.plugins else ""))

    def result(self) -> SyntheticSet:
        """The current synthetic set; with the running mean of its images if the optimizer keeps one."""
        if not self.mean:
            return self.synthetic
        averaged = copy.deepcopy(self.synthetic)
        for name, mean in self.mean.items():
            averaged.images[name].data = mean.clone()
        return averaged

    def state(self) -> dict[str, Any]:
        """Everything that changes, as tensors and plain values."""
        return {"iteration": self.iteration, "synthetic": self.synthetic.state_dict(), "ratios": self.ratios,
                "mean": self.mean, "optimizer": None if self.optimizer is None else self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.iteration, self.ratios = state["iteration"], dict(state["ratios"])
        self.synthetic.load_state_dict(state["synthetic"])
        self.mean = {name: mean.to(self.task.device) for name, mean in state["mean"].items()}
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])


def _read(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalar tensors as numbers, all at once: each separate read would wait for the device."""
    values = torch.stack([one.detach() for one in scalars.values()]).tolist() if scalars else []
    return dict(zip(scalars, values, strict=True))


def _scalar(loss: object, name: str) -> Tensor:
    if not isinstance(loss, torch.Tensor) or loss.dim():
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise InputError(f"plug-in {name} returned {what}; expected a scalar tensor")
    return loss


def _checked(synthetic: object, method: Method, task: Task, ipc: int) -> SyntheticSet:
    """The set the method starts from, checked against the run. Raises InputError if it does not fit."""
    who = f"{kind(method)}.start"
    from datastill.synthetic import SyntheticSet

    if not isinstance(synthetic, SyntheticSet):
        raise InputError(f"{who} returned {type(synthetic).__name__}; expected task.synthetic(images)")
    with torch.no_grad():
        x, y = synthetic.batch()
    if x.shape[1:] != task.real.shape:
        raise InputError(f"{who} returned images of shape {tuple(x.shape[1:])}; the dataset has {task.real.shape}")
    if not (synthetic.stored == ipc * task.classes and _in_class_order(synthetic.labels, task.classes)):
        raise InputError(f"{who} returned {synthetic.stored} images; expected {ipc} per class, in class order "
                         f"({ipc * task.classes} in total)")
    if len(x) != len(y) or not _in_class_order(y, task.classes):
        raise InputError(f"parametrization {spec(task.parametrization)} gave {len(x)} images and {len(y)} labels for "
                         f"{synthetic.stored} stored ones; expected one label per image, in class order, the same number "
                         "for every class")
    check_optim(method, synthetic)
    return synthetic


def _in_class_order(labels: Tensor, classes: int) -> bool:
    """Whether these labels (N, K), N > 0, are of ``classes`` classes in order, the same number for each."""
    wanted = torch.arange(classes).repeat_interleave(len(labels) // classes)
    return bool(labels.shape == (len(wanted), classes)) and torch.equal(labels.argmax(1).cpu(), wanted) and len(wanted) > 0


def check_optim(method: Method, synthetic: SyntheticSet) -> None:
    """Check that everything to be learned is in a set like this. Raises InputError."""
    optim, groups = method.optim, synthetic.groups()
    if optim.labels.lr > 0 and not synthetic.soft:
        raise InputError(f"method.optim.labels.lr is {optim.labels.lr:g}, but {kind(method)} has hard labels; set it to 0")
    if optim.inner_lr.lr > 0 and synthetic.lr is None:
        raise InputError(f"method.optim.inner_lr.lr is {optim.inner_lr.lr:g}, but {kind(method)} "
                         f"learns no learning rate; set it to 0")
    for name in optim.parameters:
        if f"images.{name}" not in groups:
            raise InputError(f"method.optim.parameters.{name}: no such parameter{nearest(name, synthetic.images)}")


def _shares(norms: Mapping[str, float]) -> dict[str, float]:
    """Each term's share of the sum of gradient norms, under ``share.<term>``."""
    total = sum(norms.values())
    return {f"share.{name}": norm / total for name, norm in norms.items()} if total > 0 else {}
