"""Classes of users that misbehave, each in one way; ``test_foreign.py`` says what is to be said of each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

import datastill as ds
import tiny
from datastill.data.source import Arrays, Source
from datastill.protocols._sgd import SGDTraining
from datastill.teachers import Pool

# --- networks ---------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A linear classifier of 8x8 images."""

    pixels = 64

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(self.pixels, classes)

    def embed(self, x: Tensor) -> Any:
        return x.flatten(1)

    def maps(self, x: Tensor) -> Any:
        return {"pixels": x}

    def forward(self, x: Tensor) -> Any:
        return self.linear(x.flatten(1))


class Plain(ds.Architecture):
    """A network that is all right."""

    def build(self, shape: Any, classes: int) -> Any:
        return Net(classes)


class UnknownType(Plain):
    width: NoSuchType = 3  # type: ignore[name-defined]  # noqa: F821


class LazyNet(Net):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.linear = nn.LazyLinear(classes)


class Lazy(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return LazyNet(classes)


def _hook(module: Any, given: Any, found: Any) -> Any:
    raise ValueError("a hook")


class Hooked(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        network = Net(classes)
        network.register_forward_hook(_hook)
        return network


class Untrainable(Net):
    def train(self, mode: bool = True) -> Any:
        raise KeyError("mode")


class ModeFails(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return Untrainable(classes)


class NotWritten(Plain):
    thing: Any = object()


class NotAModule(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return lambda x: x


class NothingBuilt(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return None


class BuildFails(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        raise KeyError("layers")


class BuildExits(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        sys.exit(0)


class BuildReadsAFile(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return Path("/no/such/weights.pt").read_bytes()


class WrongArguments(Plain):
    def build(self, shape: Any) -> Any:  # type: ignore[override]
        return Net(10)


class OtherSize(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        net = Net(classes)
        net.linear = nn.Linear(784, classes)
        return net


class NoFeatures(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


class NoParameters(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        net = Net(classes)
        net.linear = nn.Linear(64, 0)
        net.forward = lambda x: x.flatten(1)[:, :classes]  # type: ignore[method-assign]
        del net.linear
        return net


class Frozen(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return Net(classes).requires_grad_(False)


class OtherClasses(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return Net(classes + 1)


class FloatingPoint64(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return Net(classes).double()


def returning(found: Any) -> type[Net]:
    """A network that returns ``found(logits)``."""
    class Returning(Net):
        def forward(self, x: Tensor) -> Any:
            return found(super().forward(x))
    return Returning


class Text(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return returning(lambda logits: "logits")(classes)


class EmptyTuple(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return returning(lambda logits: ())(classes)


class Labels(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return returning(lambda logits: logits.argmax(1))(classes)


class Mean(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return returning(lambda logits: logits.mean(0))(classes)


class NotFinite(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return returning(lambda logits: logits / 0)(classes)


class InPlace(Plain):
    """Its weights change in every pass, so that gradients cannot be computed."""

    def build(self, shape: Any, classes: int) -> Any:
        class Changing(Net):
            def forward(self, x: Tensor) -> Any:
                y = super().forward(x).exp()
                with torch.no_grad():
                    y.mul_(2)
                return y
        return Changing(classes)


class MapsOfAList(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        class Listing(Net):
            def maps(self, x: Tensor) -> Any:
                return [x]
        return Listing(classes)


class MapsFail(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        class Failing(Net):
            def maps(self, x: Tensor) -> Any:
                raise NotImplementedError
        return Failing(classes)


class FeaturesOfATuple(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        class Pair(Net):
            def embed(self, x: Tensor) -> Any:
                return x.flatten(1), x
        return Pair(classes)


class FeaturesOfMaps(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        class Unflattened(Net):
            def embed(self, x: Tensor) -> Any:
                return x
        return Unflattened(classes)


class TrainingFails(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        class Moody(Net):
            def forward(self, x: Tensor) -> Any:
                if self.training:
                    raise ValueError("not while training")
                return super().forward(x)
        return Moody(classes)


class FailsLater(Plain):
    """Only on more images than are tried beforehand."""

    def build(self, shape: Any, classes: int) -> Any:
        class Later(Net):
            def embed(self, x: Tensor) -> Any:
                if len(x) > 2:
                    raise OSError(28, "No space left on device")
                return super().embed(x)
        return Later(classes)


class LosesRows(Plain):
    """Of more than eight."""

    def build(self, shape: Any, classes: int) -> Any:
        return returning(lambda logits: logits[:8])(classes)


class EverySecond(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return returning(lambda logits: logits[::2])(classes)


class LosesFeatures(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        class Fewer(Net):
            def embed(self, x: Tensor) -> Any:
                return x.flatten(1)[:1]
        return Fewer(classes)


class LosesMaps(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        class Fewer(Net):
            def maps(self, x: Tensor) -> Any:
                return {"pixels": x[:1]}
        return Fewer(classes)


class Compiled(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return torch.compile(Net(classes))


class EvalOfNothing(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        class Quiet(Net):
            def eval(self) -> Any:
                super().eval()
        return Quiet(classes)


class TrainOfNothing(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        class Quiet(Net):
            def train(self, mode: bool = True) -> Any:
                super().train(mode)
        return Quiet(classes)


class EmptyParameter(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        network = Net(classes)
        network.extra = nn.Parameter(torch.rand(0))
        return network


class ParametersOfNumbers(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        class Numbers(Net):
            def named_parameters(self, *given: Any, **options: Any) -> Any:
                return [("weight", 1)]
        return Numbers(classes)


class BuffersFail(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        class Failing(Net):
            def buffers(self, recurse: bool = True) -> Any:
                raise ValueError("no buffers")
        return Failing(classes)


class ModulesFail(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        class Failing(Net):
            def modules(self) -> Any:
                yield self
                raise ValueError("no more modules")
        return Failing(classes)


class NoState(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        class Stateless(Net):
            def state_dict(self, *given: Any, **options: Any) -> Any:
                return {}
        return Stateless(classes)


class Tuple(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return returning(lambda logits: (logits, None))(classes)


class Table(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return returning(lambda logits: {"loss": None, "logits": logits})(classes)


class Object(Plain):
    def build(self, shape: Any, classes: int) -> Any:
        return returning(lambda logits: SimpleNamespace(logits=logits))(classes)


class Features(Plain):
    """Batch normalization of features, which needs two images."""

    def build(self, shape: Any, classes: int) -> Any:
        net = Net(classes)
        net.linear = nn.Sequential(nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, classes))  # type: ignore[assignment]
        return net


# --- methods ----------------------------------------------------------------------------------------------------------


class NotDefined(ds.Method):
    def start(self, task: Any, ipc: int, rng: Any) -> Any: ...


class NoSteps(tiny.Pull):
    def iterate(self, iteration: int, synthetic: Any, task: Any, rng: Any) -> Any:
        yield from ()


class YieldsLosses(tiny.Pull):
    def iterate(self, iteration: int, synthetic: Any, task: Any, rng: Any) -> Any:
        yield synthetic.batch().x.sum()


class YieldsNothing(tiny.Pull):
    def iterate(self, iteration: int, synthetic: Any, task: Any, rng: Any) -> Any:
        yield None


class ReturnsAStep(tiny.Pull):
    def iterate(self, iteration: int, synthetic: Any, task: Any, rng: Any) -> Any:
        return ds.Step(synthetic.batch().x.sum(), synthetic.batch(), nn.Identity())


class Odd(tiny.Pull):
    """Yields one step; subclasses change what."""

    def step(self, synthetic: Any) -> Any:
        raise NotImplementedError

    def iterate(self, iteration: int, synthetic: Any, task: Any, rng: Any) -> Any:
        yield self.step(synthetic)


class Detached(Odd):
    def step(self, synthetic: Any) -> Any:
        batch = synthetic.batch()
        return ds.Step(batch.x.detach().sum(), batch, nn.Identity())


class OfTheNetwork(Odd):
    def step(self, synthetic: Any) -> Any:
        net = nn.Linear(2, 2)
        return ds.Step(net.weight.sum(), synthetic.batch(), net)


class Vector(Odd):
    def step(self, synthetic: Any) -> Any:
        batch = synthetic.batch()
        return ds.Step(batch.x.mean((1, 2, 3)), batch, nn.Identity())


class Number(Odd):
    def step(self, synthetic: Any) -> Any:
        return ds.Step(1.0, synthetic.batch(), nn.Identity())  # type: ignore[arg-type]


class Whole(Odd):
    def step(self, synthetic: Any) -> Any:
        return ds.Step(torch.tensor(3), synthetic.batch(), nn.Identity())


class NaN(Odd):
    def step(self, synthetic: Any) -> Any:
        batch = synthetic.batch()
        return ds.Step(batch.x.sum() * float("nan"), batch, nn.Identity())


class NoBatch(Odd):
    def step(self, synthetic: Any) -> Any:
        return ds.Step(synthetic.batch().x.sum(), None, nn.Identity())  # type: ignore[arg-type]


class LogsTensors(Odd):
    def step(self, synthetic: Any) -> Any:
        batch = synthetic.batch()
        return ds.Step(batch.x.sum(), batch, nn.Identity(), log={"window": batch.x.sum()})  # type: ignore[dict-item]


class LogsANumber(Odd):
    def step(self, synthetic: Any) -> Any:
        batch = synthetic.batch()
        return ds.Step(batch.x.sum(), batch, nn.Identity(), log=5)  # type: ignore[arg-type]


class LogsByNumber(Odd):
    def step(self, synthetic: Any) -> Any:
        batch = synthetic.batch()
        return ds.Step(batch.x.sum(), batch, nn.Identity(), log={0: 1.0})  # type: ignore[dict-item]


class FailsInTheSecond(tiny.Pull):
    def iterate(self, iteration: int, synthetic: Any, task: Any, rng: Any) -> Any:
        if iteration:
            raise IndexError("list index out of range")
        yield from super().iterate(iteration, synthetic, task, rng)


class Exits(tiny.Pull):
    def iterate(self, iteration: int, synthetic: Any, task: Any, rng: Any) -> Any:
        raise SystemExit


class StartsFromNothing(tiny.Pull):
    def start(self, task: Any, ipc: int, rng: Any) -> Any:
        return None


class StartsFromNaN(tiny.Pull):
    def start(self, task: Any, ipc: int, rng: Any) -> Any:
        batch = task.random_real(ipc, rng)
        return task.synthetic(batch._replace(x=batch.x * float("nan")))


class StartsFrom64(tiny.Pull):
    def start(self, task: Any, ipc: int, rng: Any) -> Any:
        batch = task.random_real(ipc, rng)
        return task.synthetic(batch._replace(x=batch.x.double()))


class StartsElsewhere(tiny.Pull):
    def start(self, task: Any, ipc: int, rng: Any) -> Any:
        batch = task.random_real(ipc, rng)
        return task.synthetic(batch._replace(x=batch.x.to("meta")))


class SetOfNumbers(tiny.Pull):
    numbers: set[int] = Field(default_factory=set)


class Dated(tiny.Pull):
    since: date = date(1979, 5, 27)


class CheckFails(tiny.Pull):
    def check(self, task: Any, ipc: int) -> None:
        assert ipc == 7, "seven images, please"


class PrepareGivesTensors(tiny.Pull):
    def prepare(self, task: Any) -> Any:
        return {"mean": torch.zeros(3)}


class PrepareGivesAList(tiny.Pull):
    def prepare(self, task: Any) -> Any:
        return [1, 2]


class Concludes(tiny.Pull):
    """All is well but for its last words."""

    def conclusions(self, log: Any) -> Any:
        raise ZeroDivisionError("division by zero")


class PoolsOfText(tiny.Pull):
    def pools(self, network: Any) -> Any:
        return "experts"


class ProvidesText(tiny.Pull):
    provides = "gradient_norms"  # type: ignore[assignment]


class OwnRate(tiny.Pull):
    @property
    def has_learned_lr(self) -> bool:
        return self.nonsense  # type: ignore[attr-defined, no-any-return]


class Validates(tiny.Pull):
    power: int = 1

    @field_validator("power")
    @classmethod
    def _power(cls, value: int) -> int:
        return {1: 1}[value]


class IterationsOfText(tiny.Pull):
    iterations: str = "many"  # type: ignore[assignment]


class OwnStart(tiny.Pull):
    def __init__(self, **settings: Any) -> None:
        pass


class WarmStart(tiny.Pull):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        raise RuntimeError("no weights here")


# --- plug-ins ---------------------------------------------------------------------------------------------------------


class Term(ds.Plugin):
    """A term that is all right; subclasses change it."""

    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        return step.batch.x.square().mean()


class TermBackward(Term):
    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        step.loss.backward()
        return super().loss(step, task, rng)


class TermVector(Term):
    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        return step.batch.x.mean((1, 2, 3))


class TermNumber(Term):
    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        return float(step.batch.x.detach().mean())


class TermNothing(Term):
    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        return None


class TermDetached(Term):
    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        return step.batch.x.detach().square().mean()


class TermElsewhere(Term):
    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        return super().loss(step, task, rng).to("meta")


class TermOf64(Term):
    """Works."""

    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        return step.batch.x.double().square().mean()


class TermWhole(Term):
    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        return torch.tensor(2)


class TermNaN(Term):
    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        return super().loss(step, task, rng) * float("nan")


class TermFails(Term):
    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        return step.batch.images.mean()


class TermFull(Term):
    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        raise OSError(28, "No space left on device")


class TermExits(Term):
    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        sys.exit("done")


class TermClamps(Term):
    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        step.batch.x.data.clamp_(-0.1, 0.1)
        return super().loss(step, task, rng)


class TermTrains(Term):
    def loss(self, step: Any, task: Any, rng: Any) -> Any:
        with torch.no_grad():
            next(step.net.parameters()).zero_()
        return super().loss(step, task, rng)


class TermFactor(Term):
    def factor(self, iteration: int, iterations: int) -> Any:
        return None


class NeedsText(Term):
    needs = "gradient_norms"  # type: ignore[assignment]


class PreparesObjects(Term):
    def prepare(self, task: Any) -> Any:
        return {"x": float("nan"), "y": object()}


# --- protocols, parametrizations, pools, sources ----------------------------------------------------------------------


class Trains(SGDTraining):
    epochs: int = 1


class TrainFails(Trains):
    def train(self, network: Any, examples: Any, rng: Any, progress: Any = None) -> None:
        raise AttributeError("no epochs")


class VectorCriterion(Trains):
    def criterion(self, logits: Any, y: Any) -> Any:
        return nn.functional.cross_entropy(logits, y, reduction="none")


class NumberCriterion(Trains):
    def criterion(self, logits: Any, y: Any) -> Any:
        return 1.0


class Doubles(Trains):
    def train(self, network: Any, examples: Any, rng: Any, progress: Any = None) -> None:
        network.double()


class MovesAway(Trains):
    def train(self, network: Any, examples: Any, rng: Any, progress: Any = None) -> None:
        network.to("meta")


class Replaces(Trains):
    def train(self, network: Any, examples: Any, rng: Any, progress: Any = None) -> None:
        network.__class__ = nn.Identity


class ForNothing(Trains):
    def for_network(self, network: Any) -> Any:
        return None


class ForASetFails(Trains):
    def for_set(self, lr: float | None) -> Any:
        return {"lr": lr}["rate"]


class Same(ds.Parametrization):
    """Pixels; subclasses change it."""

    def encode(self, start: Any, task: Any, rng: Any) -> Any:
        return {"values": start.x}

    def decode(self, parameters: Mapping[str, Tensor], rows: Any = None) -> Any:
        return parameters["values"] if rows is None else parameters["values"][rows]


class Nothing(Same):
    def encode(self, start: Any, task: Any, rng: Any) -> Any:
        return {}

    def decode(self, parameters: Mapping[str, Tensor], rows: Any = None) -> Any:
        return torch.zeros(10, 1, 8, 8)


class Dotted(Same):
    def encode(self, start: Any, task: Any, rng: Any) -> Any:
        return {"values.of.pixels": start.x}


class ATensor(Same):
    def encode(self, start: Any, task: Any, rng: Any) -> Any:
        return start.x


class DecodesNothing(Same):
    def decode(self, parameters: Mapping[str, Tensor], rows: Any = None) -> Any:
        return None


class IgnoresRows(Same):
    def decode(self, parameters: Mapping[str, Tensor], rows: Any = None) -> Any:
        return parameters["values"]


class DecodesWithoutGraph(Same):
    def decode(self, parameters: Mapping[str, Tensor], rows: Any = None) -> Any:
        return super().decode(parameters, rows).detach()


class LabelsFail(Same):
    def labels(self, stored: Any) -> Any:
        raise TypeError("labels?")


class Teaches(Pool):
    """A pool; subclasses define its members."""

    @property
    def size(self) -> Any:
        return 1

    def domain(self, context: Any, group: int = 0) -> Any:
        from datastill.data.domain import domain_of
        return domain_of(context.real)

    def load(self, context: Any, group: int, number: int) -> Any:
        return "teacher"


class TeachesBadly(Teaches):
    def load(self, context: Any, group: int, number: int) -> Any:
        from datastill.teachers import Teacher
        domain = self.domain(context)
        return Teacher("bad", 0, OtherSize().build(domain.shape, 10), domain, domain)


class TeachesNobody(Teaches):
    @property
    def size(self) -> Any:
        return None


class TeachesNowhere(Teaches):
    def domain(self, context: Any, group: int = 0) -> Any:
        return {"classes": ()}


class Reads(Source):
    def read(self, place: Any, size: Any, channels: Any) -> Any:
        raise EOFError("end of file")


class ReadsNothing(Source):
    def read(self, place: Any, size: Any, channels: Any) -> Any:
        return None


X, Y = np.arange(40 * 64).reshape(40, 8, 8, 1).astype(np.uint8), np.arange(40) % 2


class Listed(Source):
    def read(self, place: Any, size: Any, channels: Any) -> Any:
        return Arrays((X.tolist(), Y), None, ("a", "b"))  # type: ignore[arg-type]


class Tensors(Source):
    def read(self, place: Any, size: Any, channels: Any) -> Any:
        return Arrays((torch.from_numpy(X), torch.from_numpy(Y)), None, ("a", "b"))  # type: ignore[arg-type]


class ListedTargets(Source):
    def read(self, place: Any, size: Any, channels: Any) -> Any:
        return Arrays((X, Y.tolist()), None, ("a", "b"))  # type: ignore[arg-type]


class Halves(Source):
    def read(self, place: Any, size: Any, channels: Any) -> Any:
        return Arrays((X, Y / 2), (X, Y), ("a", "b"))


class NamedTargets(Source):
    def read(self, place: Any, size: Any, channels: Any) -> Any:
        return Arrays((X, Y), (X, Y.astype(str)), ("a", "b"))


class Unpaired(Source):
    def read(self, place: Any, size: Any, channels: Any) -> Any:
        return Arrays(X, None, ("a", "b"))  # type: ignore[arg-type]


class NoImages(Source):
    def read(self, place: Any, size: Any, channels: Any) -> Any:
        return Arrays(None, None, ("a", "b"))  # type: ignore[arg-type]


class FewNames(Source):
    def read(self, place: Any, size: Any, channels: Any) -> Any:
        return Arrays((X, Y), None, ("a", "b"), names=[["x"]])


class NumberedClasses(Source):
    def read(self, place: Any, size: Any, channels: Any) -> Any:
        return Arrays((X, Y), None, (0, 1))  # type: ignore[arg-type]


class NoClasses(Source):
    def read(self, place: Any, size: Any, channels: Any) -> Any:
        return Arrays((X, Y), None, None)  # type: ignore[arg-type]


class Abstract(Source):
    home: ClassVar[str] = "datastill.data"


def function(x: Any) -> Any:
    return x


SOMETHING = 3
