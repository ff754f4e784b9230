"""The distillation loop: ask the method for a step, add the plug-ins' terms, update the synthetic set."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from datastill.balance import Balance
from datastill.core import Method, Plugin, Step
from datastill.data import Batch
from datastill.digest import spec
from datastill.errors import InputError, RunError
from datastill.foreign import blaming, is_foreign
from datastill.late import torch
from datastill.parametrization import Parametrization
from datastill.previous import Previous
from datastill.registry import kind
from datastill.rng import RNG
from datastill.tables import counted, nearest, shown
from datastill.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.synthetic import SyntheticSet

OWN = {"method", "iteration", "loss", "time"}  # names in a log line that are not a plug-in's or a method's
MEASURE = 100  # iterations between measurements of gradient norms for the log, each a backward pass per term
SMALLEST_LR = 1e-6  # a learned learning rate is projected to at least this after each update
# Beyond these a set is ruined, far beyond what any run that learns something reaches.
LARGEST_LR = 1e3
LARGEST_LOGIT = 1e6
BEYOND_REAL = 1e3  # mean magnitude of an image, relative to the largest value of the start


class Loop:
    """The state of a run between two iterations, and the step to the next one.

    What changes: ``synthetic``, the optimizer, ``iteration``, ``balance`` (ratios of plug-ins weighted by gradient),
    ``task.kept`` (what the method remembers), ``mean`` (the running mean of the image parameters, if enabled). ``state`` and
    ``restore`` cover exactly these, so that a resumed run is bit for bit the same as an uninterrupted one on a deterministic
    device: a CPU always, a GPU on request (``compute.computing``).
    """

    def __init__(self, method: Method, plugins: Mapping[str, Plugin], task: Task, rng: RNG, ipc: int, *,
                 place: Task | None = None, previous: Previous | None = None) -> None:
        """``ipc``: stored images per class. ``place``: the part of the task whose images it starts from, if not all.
        ``previous``: a finished set it continues from, for the images that set has."""
        self.method, self.plugins, self.task, self.rng = method, plugins, task.anew(), rng
        self.place = (place or self.task).to_start()
        begun = method.start(self.place, ipc * task.parametrization.starts, rng("start"))
        self.synthetic = _checked(begun, method, task, ipc)
        with torch.no_grad():
            self.reach = max(1.0, float(self.synthetic.decode().abs().max()))
        if previous is not None:
            previous.into(self.synthetic)
        self._learn()
        self.iteration = 0
        self.balance = Balance(plugins)
        self.said: set[str] = set()  # warnings already shown
        self.mean: dict[str, Tensor] = {} if method.optim.ema is None else {
            name: parameter.detach().clone() for name, parameter in self.synthetic.images.items()}

    def _learn(self) -> None:
        """Learn the current set, with a new optimizer."""
        optim = self.method.optim
        self.learned = {name: parameter.requires_grad_() for name, parameter in self.synthetic.groups().items()
                        if optim.group(name).lr > 0}
        self.optimizer = self._optimizer() if self.learned and self.method.iterations else None

    def _renew(self) -> None:
        """Go on with the set that the method wants at this iteration, if it wants another one."""
        renewed = self.method.renew(self.iteration, self.synthetic, self.place, self.rng("start"))
        if renewed is not None:
            self.synthetic = renewed
            self._learn()

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
        parts = [("network", type(self.task.network)), ("method", type(self.method)),
                 *((f"plug-in {name}", type(plugin)) for name, plugin in self.plugins.items())]
        with blaming(*parts), \
                rng("inside").as_global(self.task.device):  # what networks draw themselves, such as dropout
            self._renew()
            steps = self.method.iterate(self.iteration, self.synthetic, self.task, rng("method"))
            if not isinstance(steps, Iterator):
                raise InputError(f"{kind(self.method)}.iterate returned {type(steps).__name__}; it must yield steps")
            due = self.balance.due(self.iteration)
            for number, step in enumerate(steps):
                _see_step(step, f"{kind(self.method)}.iterate")
                logged = number == 0 and self.iteration % MEASURE == 0
                lines.append(self._apply(step, rng("step", number), measure=due or logged))
                self._warn(step.caution)
        self.balance.close()
        self.iteration += 1
        keys = dict.fromkeys(key for line in lines for key in line)
        means = {key: float(sum(values) / len(values)) for key in keys
                 if (values := [line[key] for line in lines if key in line])}
        return {"iteration": self.iteration, **means}

    def _apply(self, step: Step, rng: RNG, measure: bool) -> dict[str, float]:
        losses = {"method": step.loss}
        for name, plugin in self.plugins.items():
            if self._counts(plugin, measure):
                losses[name] = self._term(name, step, rng("plugin", name), measure)
        shares: dict[str, float] = {}
        if measure:
            self._see_finite(_read(losses))
            norms = self._gradient_norms(losses, step)
            self.balance.measured(norms)
            shares = _shares({name: self._weight(name) * norms[name] for name in losses})
        weights = {name: self._weight(name) for name in losses}
        total = torch.stack([weights[name] * loss for name, loss in losses.items() if weights[name]]).sum()
        *values, whole = _read({**losses, "loss": total}).values()
        line = dict(zip(losses, values, strict=True))
        self._see_finite(line)
        self._see_effect(line, losses, step)
        if twice := sorted({*step.log} & {*self.plugins, *OWN}):
            raise InputError(f"{kind(self.method)} logs {twice[0]!r}, the name of a plug-in or of the log's own; give the "
                             "plug-in another label, or the log another key")
        line |= {**step.log, "method": line["method"] if step.value is None else step.value, **shares, "loss": whole}
        if step.apply and self.optimizer is not None:
            self._update(total, losses)
            if "inner_lr" in self.learned and float(self.learned["inner_lr"].detach()) <= SMALLEST_LR:
                line["lr_at_bound"] = 1.0
                self._warn("the learned learning rate is at its lower bound, where the images hardly change; lower "
                           "method.optim.inner_lr.lr, or start from another method.lr_net")
        return line

    def _term(self, name: str, step: Step, rng: RNG, measure: bool) -> Tensor:
        """A plug-in's term. One from outside must change nothing; values are compared only when shares are measured."""
        plugin = self.plugins[name]
        net = step.net.parameters() if isinstance(step.net, torch.nn.Module) else ()
        watched = [*self.synthetic.parameters(), *net] if is_foreign(type(plugin)) else []
        before = [(one._version, one.detach().clone() if measure else one) for one in watched]
        loss = _scalar(plugin.loss(step, self.task, rng), f"plug-in {name} returned", step.loss)
        if any(one._version != version or (measure and not torch.equal(one, value))
               for one, (version, value) in zip(watched, before, strict=True)):
            raise InputError(f"plug-in {name}: {kind(plugin)}.loss changed the synthetic set or the network in place; "
                             "expected a term that only computes (copy a tensor before changing it)")
        return loss

    def _see_effect(self, line: Mapping[str, float], losses: Mapping[str, Tensor], step: Step) -> None:
        """Check that terms depend on the images, unless they are 0. Raises InputError."""
        for name, loss in losses.items():
            if name != "method" and step.batch.x.requires_grad and not loss.requires_grad and line[name]:
                raise InputError(f"plug-in {name}: {kind(self.plugins[name])}.loss returned a number that does not depend "
                                 "on the images; expected one computed from step.batch.x, without detach() or no_grad()")

    def _counts(self, plugin: Plugin, measure: bool) -> bool:
        """Whether a plug-in is asked: it has a weight now, or its gradient is measured for later."""
        now = plugin.factor(self.iteration, self.method.iterations) > 0 or (measure and plugin.balance != "fixed")
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
        return plugin.weight * plugin.factor(self.iteration, self.method.iterations) * self.balance.ratio(name)

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

    def _update(self, total: Tensor, terms: Iterable[str]) -> None:
        assert self.optimizer is not None
        parameters = list(self.learned.values())
        found: Sequence[Tensor | None] = torch.autograd.grad(total, parameters, allow_unused=True) \
            if total.requires_grad else [None for _ in parameters]
        if all(gradient is None for gradient in found):
            raise InputError(f"{kind(self.method)}.iterate yielded a step whose loss does not depend on what is learned "
                             f"({', '.join(self.learned)}); expected one computed from synthetic.batch(), without detach() "
                             "or no_grad()")
        gradients = dict(zip(self.learned, found, strict=True))
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
        self.synthetic.codec.project(self.synthetic.images)
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
        optim, inner = self.method.optim, self.synthetic.lr
        labels = f", method.optim.labels.lr is {optim.labels.lr:g}" if optim.labels.lr else ""
        learned = "" if inner is None else f", or of the inner training (now {float(inner.detach()):g}, learned at " \
                                           f"method.optim.inner_lr.lr {optim.inner_lr.lr:g})"
        return RunError(f"stopped at iteration {self.iteration}: {what}{verb}. Try a smaller "
                        f"learning rate ({optim.rates(self.synthetic.images)}{labels}{learned})"
                        + (" or a smaller plug-in weight" if self.plugins else ""))

    def check(self) -> None:
        """Check that the last update left a set that is of use. Raises RunError if it is not finite, or far out of range."""
        learned = self.synthetic
        found: dict[str, Tensor] = {}
        with torch.no_grad():
            x = learned.codec.decode(self.mean or learned.images)
            found["mean magnitude of an image"] = torch.linalg.vector_norm(x.flatten(1), 1, 1).max() / x[0].numel()
            if learned.soft:
                found["magnitude of a label's logit"] = learned.labels.abs().max()
            if learned.lr is not None:
                found["learned learning rate"] = learned.lr
        bounds = (BEYOND_REAL * self.reach, LARGEST_LOGIT, LARGEST_LR)
        for (name, value), bound in zip(_read(found).items(), bounds, strict=False):
            if not 0 <= value <= bound:
                raise self._diverged(f"after its update the {name} is {value:.3g}; up to {bound:.3g} is of use")

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
        return {"iteration": self.iteration, "synthetic": self.synthetic.state_dict(), "ratios": self.balance.state(),
                "mean": self.mean, "kept": self.task.kept,
                "optimizer": None if self.optimizer is None else self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.iteration = state["iteration"]
        self.balance.restore(state["ratios"])
        self.task.kept.clear()
        self.task.kept.update(state.get("kept", {}))
        for name, parameter in self.synthetic.named_parameters():  # of a stage whose images have another size
            if parameter.shape != (kept := state["synthetic"][name]).shape:
                parameter.data = torch.empty_like(kept)
        self.synthetic.load_state_dict(state["synthetic"])
        self.mean = {name: mean.to(self.task.device) for name, mean in state["mean"].items()}
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])


def _read(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalar tensors as numbers, all at once: each separate read would wait for the device."""
    values = torch.stack([one.detach() for one in scalars.values()]).tolist() if scalars else []
    return dict(zip(scalars, values, strict=True))


def _see_step(step: object, who: str) -> None:
    """Check what a method yields. Raises InputError."""
    if not isinstance(step, Step):
        raise InputError(f"{who} yielded {type(step).__name__}; expected datastill.Step(loss, batch, network)")
    x = getattr(step.batch, "x", None)
    if not isinstance(x, torch.Tensor):
        raise InputError(f"{who} yielded a step whose batch is {type(step.batch).__name__}; expected synthetic.batch()")
    _scalar(step.loss, f"{who} yielded a step whose loss is", x)
    if not isinstance(step.log, Mapping) or not all(isinstance(name, str) for name in step.log):
        raise InputError(f"{who} yielded a step whose log is {shown(step.log)}; expected a table of numbers by name")
    for name, value in {**step.log, "value": step.value or 0.0}.items():
        if not isinstance(value, Real):
            raise InputError(f"{who} yielded a step whose {name} is {type(value).__name__}; expected a number for the log, "
                             "such as float(tensor)")


def _scalar(loss: object, came: str, like: Tensor) -> Tensor:
    """The loss, a scalar on the device of ``like``. Raises InputError that says what ``came``."""
    if not isinstance(loss, torch.Tensor) or loss.dim():
        raise InputError(f"{came} {_form(loss)}; expected a scalar tensor")
    if not loss.is_floating_point() or loss.device != like.device:
        raise InputError(f"{came} of type {loss.dtype} on {loss.device}; expected a floating-point scalar tensor on "
                         f"{like.device}")
    return loss


def _checked(synthetic: object, method: Method, task: Task, ipc: int) -> SyntheticSet:
    """The set the method starts from, checked against the run. Raises InputError if it does not fit."""
    who = f"{kind(method)}.start"
    from datastill.synthetic import SyntheticSet

    if not isinstance(synthetic, SyntheticSet):
        raise InputError(f"{who} returned {type(synthetic).__name__}; expected task.synthetic(images)")
    x, y = check_codec(synthetic, task.parametrization)
    if x.device != task.device:
        raise InputError(f"{who} returned images on {x.device}; expected them on {task.device}")
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"{who} returned images with values that are not finite")
    if x.shape[1:] != task.real.shape:
        raise InputError(f"{who} returned images of shape {tuple(x.shape[1:])}; the dataset has {task.real.shape}")
    if not (synthetic.stored == ipc * len(task.here) and _in_class_order(synthetic.labels, task)):
        raise InputError(f"{who} returned {counted(synthetic.stored, 'image')}; expected {ipc} per class, in class order "
                         f"({ipc * len(task.here)} in total)")
    if len(x) != len(y) or not _in_class_order(y, task):
        raise InputError(f"parametrization {spec(task.parametrization)} gave {counted(len(x), 'image')} and "
                         f"{counted(len(y), 'label')} for {synthetic.stored} stored ones; expected one label per image, "
                         "in class order, the same number for every class")
    check_optim(method, synthetic)
    return synthetic


def check_codec(synthetic: SyntheticSet, parametrization: Parametrization) -> Batch:
    """Check that a set decodes to images and labels. Returns them; raises InputError."""
    who = f"parametrization {spec(parametrization)}"
    if not synthetic.images:
        raise InputError(f"{who} has no parameters, so nothing can be learned; expected encode to return some, by name")
    with torch.no_grad():
        x, y = synthetic.decode(), synthetic.y()
        if not all(isinstance(one, torch.Tensor) and one.dim() == dim for one, dim in ((x, 4), (y, 2))):
            raise InputError(f"{who} decodes to {_form(x)} and {_form(y)}; expected images (N, C, H, W) and labels (N, K)")
        part = synthetic.decode(torch.tensor([0], device=x.device))
    if not isinstance(part, torch.Tensor) or part.shape != x[:1].shape:
        raise InputError(f"{who} decodes one row to {_form(part)}; expected decode(parameters, rows) to give only "
                         f"the images at these rows, {tuple(x[:1].shape)}")
    return Batch(x, y)


def _form(value: object) -> str:
    """What came, in an error."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


def _in_class_order(labels: Tensor, task: Task) -> bool:
    """Whether these labels (N, K), N > 0, are of the task's classes in order, the same number for each."""
    wanted = torch.tensor(list(task.here)).repeat_interleave(len(labels) // len(task.here))
    right = bool(labels.shape == (len(wanted), task.classes)) and len(wanted) > 0
    return right and torch.equal(labels.argmax(1).cpu(), wanted)


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
