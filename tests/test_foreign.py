"""The boundary around classes of users: whatever they do is one line, with an exit code that says whose fault it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import misfits
import tiny
from datastill.core import Labeler
from datastill.errors import InputError
from datastill.foreign import calling, is_foreign
from datastill.registry import kind
from datastill.running import labeler
from kit import Call, input_error

DM = ("dm/digits-ipc1", "method.iterations=2", "method.batch_real=4")
PULL = ("pull.toml",)
SCORE = ("--protocol", "dc:epochs=1", "--trials", "1")

IMPORTS = {
    "exits": ("raise SystemExit\n", "raised SystemExit"),
    "exits_well": ("import sys\nsys.exit(0)\n", "raised SystemExit: 0 (exits_well.py, line 2)"),
    "stops": ("raise BaseException('x')\n", "raised BaseException: x (stops.py, line 1)"),
    "full": ("raise OSError(28, 'No space left on device')\n", "raised OSError: [Errno 28] No space left on device (full.py, line 1)"),
    "unfinished": ("def f(:\n", "raised SyntaxError: invalid syntax (unfinished.py, line 1)"),
    "lacking": ("import no_such_module_at_all\n", "No module named 'no_such_module_at_all'"),
    "moved": ("from datastill import NoSuchName\n", "raised ImportError"),
    "keyed": ("{}['key']\n", "raised KeyError: 'key' (keyed.py, line 1)"),
    "recursive": ("def f(): f()\nf()\n", "raised RecursionError"),
    "unannotated": ("import datastill as ds\nclass C(ds.Plugin):\n    power = 3\n    def loss(self, step, task, rng): ...\n",
                    "raised PydanticUserError"),
    "hiding": ("import datastill as ds\nclass C(ds.Plugin):\n    needs: int = 3\n    def loss(self, step, task, rng): ...\n",
               "the field 'needs' has the name of a method or a constant"),
    "named": ("import datastill as ds\nclass C(ds.Plugin):\n    kind: str = 'x'\n    def loss(self, step, task, rng): ...\n",
              "the field 'kind' has the name"),
}

NETWORKS = {
    "UnknownType": (2, "misfits:UnknownType: reading its settings raised PydanticUserError"),
    "Lazy": (2, "network misfits:Lazy has lazy layers", "build it from the shape"),
    "Hooked": (2, "Net.__call__ raised ValueError: a hook"),
    "ModeFails": (2, "Untrainable.train raised KeyError: 'mode'"),
    "NotWritten": (2, "thing: misfits:NotWritten has <object object", "which run.toml and a card cannot hold; expected finite numbers"),
    "NotAModule": (2, "NotAModule.build returned function; expected nn.Module"),
    "NothingBuilt": (2, "NothingBuilt.build returned NoneType; expected nn.Module"),
    "BuildFails": (2, "BuildFails.build raised KeyError: 'layers' (", "misfits.py, line "),
    "BuildExits": (2, "BuildExits.build raised SystemExit: 0"),
    "BuildReadsAFile": (2, "BuildReadsAFile.build raised FileNotFoundError", "/no/such/weights.pt"),
    "WrongArguments": (2, "WrongArguments.build raised TypeError", "3 were given"),
    "OtherSize": (2, "network misfits:OtherSize: Net.forward raised RuntimeError: mat1 and mat2"),
    "NoFeatures": (2, "network misfits:NoFeatures builds a module of class Sequential without embed(x)"),
    "NoParameters": (2, "network misfits:NoParameters has no parameters to train"),
    "Frozen": (2, "network misfits:Frozen has no parameters to train"),
    "OtherClasses": (2, "gives an output of shape (11,) for an image; expected (10,)"),
    "FloatingPoint64": (2, "FloatingPoint64: Net.forward raised RuntimeError", "dtype"),
    "Text": (2, "Returning.forward returned str; expected logits (B, K), alone, first in a tuple"),
    "EmptyTuple": (2, "returned tuple; expected logits"),
    "Labels": (2, "expected (10,), one floating-point number per class (two images gave torch.int64"),
    "Mean": (2, "Returning.forward returned logits of shape (10,) for 2 images; expected one row for each"),
    "EverySecond": (2, "Returning.forward returned logits of shape (1, 10) for 2 images; expected one row for each"),
    "LosesFeatures": (2, "Fewer.embed returned features of shape (1, 64) for 2 images; expected one row for each"),
    "LosesMaps": (2, "Fewer.maps returned pixels of shape (1, 1, 8, 8) for 2 images; expected one row for each"),
    "Compiled": (2, "network misfits:Compiled builds a module of class OptimizedModule without embed(x)"),
    "EvalOfNothing": (2, "Quiet.eval returned NoneType; expected the network itself, as in `return self`"),
    "TrainOfNothing": (2, "Quiet.train returned NoneType; expected the network itself"),
    "EmptyParameter": (2, "network misfits:EmptyParameter has a parameter without values, extra; leave it out"),
    "ParametersOfNumbers": (2, "network misfits:ParametersOfNumbers has parameters or buffers that are no tensors"),
    "BuffersFail": (2, "Failing.buffers raised ValueError: no buffers"),
    "ModulesFail": (2, "Failing.modules raised ValueError: no more modules"),
    "NotFinite": (2, "outputs that are not finite"),
    "InPlace": (2, "network misfits:InPlace raised RuntimeError", "inplace operation"),
    "MapsOfAList": (2, "Listing.maps returned list; expected a table of feature maps"),
    "MapsFail": (2, "Failing.maps raised NotImplementedError"),
    "FeaturesOfATuple": (2, "Pair.embed returned tuple; expected features (B, D)"),
    "FeaturesOfMaps": (2, "Unflattened.embed returned shape (2, 1, 8, 8); expected features (B, D)"),
    "TrainingFails": (2, "Moody.forward raised ValueError: not while training"),
    "FailsLater": (2, "stopped at iteration 0", "Later.embed raised OSError: [Errno 28]"),
    "function": (2, "misfits:function is not a network"),
    "SOMETHING": (2, "misfits:SOMETHING is not a network"),
    "Term": (2, "misfits:Term is not a network: expected a subclass of datastill.Architecture"),
    "Plane": (2, "misfits has no class 'Plane'", "did you mean 'Plain'"),
}

METHODS = {
    "NotDefined": (2, "misfits:NotDefined is abstract: it does not define iterate"),
    "NoSteps": (2, "NoSteps.iterate yielded no step in 3 iterations"),
    "YieldsLosses": (2, "YieldsLosses.iterate yielded Tensor; expected datastill.Step"),
    "YieldsNothing": (2, "YieldsNothing.iterate yielded NoneType"),
    "ReturnsAStep": (2, "ReturnsAStep.iterate returned Step; it must yield steps"),
    "Detached": (2, "Detached.iterate yielded a step whose loss does not depend on what is learned (images.pixels)"),
    "OfTheNetwork": (2, "OfTheNetwork.iterate yielded a step whose loss does not depend on what is learned"),
    "Vector": (2, "Vector.iterate yielded a step whose loss is a tensor of shape (10,); expected a scalar tensor"),
    "Number": (2, "loss is float; expected a scalar tensor"),
    "Whole": (2, "loss is of type torch.int64"),
    "NaN": (1, "the loss of method is nan", "no checkpoint was written yet"),
    "NoBatch": (2, "whose batch is NoneType; expected synthetic.batch()"),
    "LogsTensors": (2, "whose window is Tensor; expected a number for the log"),
    "LogsANumber": (2, "yielded a step whose log is 5; expected a table of numbers by name"),
    "LogsByNumber": (2, "LogsByNumber.iterate yielded a step whose log is {0: 1.0}; expected a table of numbers by name"),
    "FailsInTheSecond": (2, "stopped at iteration 1: misfits:FailsInTheSecond.iterate raised IndexError: list index"),
    "Exits": (2, "Exits.iterate raised SystemExit"),
    "Odd": (2, "Odd.iterate raised NotImplementedError"),
    "StartsFromNothing": (2, "StartsFromNothing.start returned NoneType; expected task.synthetic(images)"),
    "StartsFromNaN": (2, "StartsFromNaN.start returned images", "not finite"),
    "StartsFrom64": (2, "StartsFrom64.start returned images of type torch.float64"),
    "StartsElsewhere": (2, "StartsElsewhere.start returned images on meta; expected them on cpu"),
    "SetOfNumbers": (2, "numbers: misfits:SetOfNumbers has set(), which run.toml and a card cannot hold"),
    "Dated": (2, "since: misfits:Dated has datetime.date(1979, 5, 27), which"),
    "OwnStart": (2, "misfits:OwnStart.__init__ does not call super().__init__(**settings)"),
    "CheckFails": (2, "CheckFails.check raised AssertionError: seven images, please"),
    "PrepareGivesTensors": (2, "method: prepare returned what a card cannot hold"),
    "PrepareGivesAList": (2, "PrepareGivesAList.prepare returned list; expected Mapping[str, Any]"),
    "PoolsOfText": (2, "PoolsOfText.pools returned str; expected tuple[Pool, ...]"),
    "ProvidesText": (2, "misfits:ProvidesText.provides is 'gradient_norms'; expected a set of names"),
    "OwnRate": (2, "OwnRate.has_learned_lr raised AttributeError"),
    "WarmStart": (2, "misfits:WarmStart: reading its settings raised RuntimeError: no weights here"),
    "Concludes": (0, "Concludes.conclusions raised ZeroDivisionError"),
}

PLUGINS = {
    "TermBackward": (2, "plug-in mine misfits:TermBackward raised RuntimeError", "backward"),
    "TermVector": (2, "returned a tensor of shape (10,); expected a scalar tensor"),
    "TermNumber": (2, "returned float; expected a scalar tensor"),
    "TermNothing": (2, "returned NoneType; expected a scalar tensor"),
    "TermDetached": (2, "TermDetached.loss returned a number that does not depend on the images"),
    "TermElsewhere": (2, "on meta; expected a floating-point scalar tensor on cpu"),
    "TermWhole": (2, "of type torch.int64"),
    "TermNaN": (1, "is nan"),
    "TermFails": (2, "TermFails.loss raised AttributeError", "no attribute 'images'", "misfits.py, line "),
    "TermFull": (2, "TermFull.loss raised OSError: [Errno 28] No space left on device"),
    "TermExits": (2, "TermExits.loss raised SystemExit: done"),
    "TermClamps": (2, "TermClamps.loss changed the synthetic set or the network in place"),
    "TermTrains": (2, "TermTrains.loss changed the synthetic set or the network in place"),
    "TermFactor": (2, "TermFactor.factor returned NoneType; expected float"),
    "NeedsText": (2, "misfits:NeedsText.needs is 'gradient_norms'"),
    "PreparesObjects": (2, "prepare returned what a card cannot hold"),
    "TermOf64": (0, ""),
    "Term": (0, ""),
}

CODECS = {
    "Nothing": (2, "parametrization misfits:Nothing has no parameters, so nothing can be learned"),
    "Dotted": (2, "Dotted.encode returned 'values.of.pixels': Tensor; expected"),
    "ATensor": (2, "ATensor.encode returned Tensor; expected dict[str, Tensor]"),
    "DecodesNothing": (2, "decodes to NoneType"),
    "IgnoresRows": (2, "decodes one row to a tensor of shape (10, 1, 8, 8)"),
    "DecodesWithoutGraph": (2, "does not depend on what is learned"),
    "LabelsFail": (2, "LabelsFail.labels raised TypeError: labels?"),
    "Same": (0, ""),
}

PROTOCOLS = {
    "TrainFails": (2, "TrainFails.train raised AttributeError: no epochs"),
    "VectorCriterion": (2, "VectorCriterion.criterion returned torch.Size([10]); expected a differentiable scalar tensor"),
    "NumberCriterion": (2, "NumberCriterion.criterion returned float"),
    "Doubles": (2, "protocol misfits:Doubles raised RuntimeError"),
    "MovesAway": (2, "protocol misfits:MovesAway raised RuntimeError"),
    "Replaces": (2, "protocol misfits:Replaces raised RuntimeError"),
    "ForNothing": (2, "ForNothing.for_network returned NoneType; expected Protocol"),
    "ForASetFails": (2, "ForASetFails.for_set raised KeyError: 'rate'"),
    "Trains": (0, ""),
}

POOLS = {
    "Teaches": (2, "Teaches.load returned str; expected Teacher"),
    "TeachesBadly": (2, "teacher 0, 0 of misfits:TeachesBadly: Net.forward raised RuntimeError: mat1 and mat2"),
    "TeachesNobody": (2, "TeachesNobody.size returned NoneType; expected int"),
    "TeachesNowhere": (2, "TeachesNowhere.domain returned dict; expected Domain"),
}

SOURCES = {
    "Reads": (2, "Reads.read raised EOFError: end of file"),
    "ReadsNothing": (2, "ReadsNothing.read returned NoneType; expected Arrays"),
    "Listed": (2, "Listed: training images are list; expected a numpy array"),
    "Tensors": (2, "Tensors: training images are Tensor; expected a numpy array"),
    "ListedTargets": (2, "ListedTargets: training targets are list; expected a numpy array"),
    "Halves": (2, "Halves: training targets are float64 of shape (40,); expected integers (N,)"),
    "NamedTargets": (2, "NamedTargets: test targets are <U"),
    "Unpaired": (2, "Unpaired: training data are ndarray; expected (images, targets)"),
    "NoImages": (2, "NoImages: training data are NoneType; expected (images, targets)"),
    "FewNames": (2, "FewNames: names are of [1] images; expected of [40]"),
    "NumberedClasses": (2, "NumberedClasses: classes are (0, 1); expected a tuple of names"),
    "NoClasses": (2, "NoClasses: classes are None; expected a tuple of names"),
    "Abstract": (2, "misfits:Abstract is abstract: it does not define read"),
}


def see(result: tuple[int, str, str], expected: tuple[Any, ...]) -> None:
    """One line with all the parts, and the exit code; for 0 the parts stand anywhere."""
    (code, out, err), (wanted, *parts) = result, expected
    lines = [line for line in err.splitlines() if line.startswith("datastill: ")]
    assert code == wanted, err
    assert len(lines) == int(wanted > 0), err
    assert [part for part in parts if part not in (lines[0] if wanted else out + err)] == [], err


@pytest.fixture
def pull(tmp_path: Path) -> None:
    (tmp_path / "pull.toml").write_text('ipc = 1\nmethod = {kind = "tiny:Pull", iterations = 3}\ndata = {source = "digits"}\n'
                                        'network = "mlp:width=4"\n')


@pytest.mark.parametrize("module", IMPORTS)
def test_a_module_that_cannot_be_imported(run_cli: Call, tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text, says = IMPORTS[module]
    (tmp_path / f"{module}.py").write_text(text)
    see(run_cli("distill", *DM, f"plugins.mine.kind={module}:C", "--out", "run"), (2, f"{module}:C: importing {module}"
                if "raised" in says else f"{module}", says))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network(run_cli: Call, tmp_path: Path, name: str) -> None:
    see(run_cli("distill", *DM, f"network=misfits:{name}", "--out", "run"), NETWORKS[name])
    assert (tmp_path / "run").exists() == (name in {"FailsLater", "ModulesFail"})  # known before the work


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.usefixtures("pull")
def test_a_method(run_cli: Call, name: str) -> None:
    see(run_cli("distill", *PULL, f"method.kind=misfits:{name}", "method.iterations=3", "--out", "run"), METHODS[name])


@pytest.mark.usefixtures("pull")
def test_a_validator(run_cli: Call) -> None:
    see(run_cli("distill", *PULL, "method.kind=misfits:Validates", "method.power=2", "--out", "run"),
        (2, "misfits:Validates: reading its settings raised KeyError: 2 ("))


def test_a_field_of_ours_with_another_type() -> None:
    with input_error("iterations: misfits:IterationsOfText declares it as another type than Method", "'many'"):
        misfits.IterationsOfText()


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin(run_cli: Call, name: str) -> None:
    see(run_cli("distill", *DM, "network=convnet:width=4,depth=2", f"plugins.mine.kind=misfits:{name}", "--out", "run"),
        PLUGINS[name])


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.usefixtures("pull")
def test_a_parametrization(run_cli: Call, name: str) -> None:
    see(run_cli("distill", *PULL, f"parametrization=misfits:{name}", "--out", "run"), CODECS[name])


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.usefixtures("pull")
def test_a_pool(run_cli: Call, name: str) -> None:
    see(run_cli("distill", *PULL, "plugins.clom.weight=1", f"plugins.clom.pool.kind=misfits:{name}", "--out", "run"), POOLS[name])


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.usefixtures("pull")
def test_a_source(run_cli: Call, name: str) -> None:
    see(run_cli("distill", *PULL, f"data.source=misfits:{name}", "--out", "run"), SOURCES[name])


@pytest.mark.usefixtures("pull")
def test_a_protocol(run_cli: Call) -> None:
    assert run_cli("distill", *PULL, "--out", "run")[0] == 0
    for name, expected in PROTOCOLS.items():
        see(run_cli("evaluate", "run", "--protocol", f"misfits:{name}", "--trials", "1"), expected)


@pytest.mark.parametrize("name", ["Tuple", "Table", "Object"])
def test_logits_are_found_in_what_a_network_returns(run_cli: Call, name: str) -> None:
    """In training, evaluation, gradients, and as a function of the weights; with the numbers of the plain network."""
    plain, other = (ds.find(ds.Architecture, f"misfits:{one}")() for one in ("Plain", name))
    nets = [ds.nets.fresh(one, (1, 8, 8), 10, ds.RNG(0), torch.device("cpu")) for one in (plain, other)]
    x = ds.RNG(1).normal(3, 1, 8, 8)
    assert torch.equal(nets[0](x), nets[1](x))
    assert torch.equal(nets[0](x), copy.deepcopy(nets[1])(x))
    weights, predict = ds.nets.as_function(nets[1])
    assert torch.equal(predict(weights, x), nets[0](x))
    sets = [tiny.distill(tiny.run("gradient", network=one), Path(kind(one)[-5:])).batch().x for one in (plain, other)]
    assert torch.equal(*sets)
    shares = [ds.evaluate(tiny.splits().train, "dc:epochs=1,augment=none", tiny.splits().test, network=one, trials=1)[0].per_class
              for one in (plain, other)]
    assert shares[0] == shares[1]


def test_a_copy_of_a_guarded_network_is_guarded() -> None:
    net = ds.nets.fresh(misfits.FailsLater(), (1, 8, 8), 10, ds.RNG(0), torch.device("cpu"))
    for one in (net, copy.deepcopy(net)):
        with pytest.raises(InputError, match=r"misfits:FailsLater: Later\.embed raised OSError"):
            one.embed(torch.zeros(3, 1, 8, 8))  # type: ignore[operator]


@pytest.mark.parametrize(("name", "says"), [
    ("LosesRows", "misfits:LosesRows: Returning.forward returned logits of shape (8, 10) for 10 images; expected one row for each"),
    ("NoState", "Stateless.load_state_dict raised RuntimeError")])
def test_a_network_that_fails_with_more_images_or_when_stored(name: str, says: str) -> None:
    with input_error(says):
        if name == "LosesRows":
            ds.evaluate(tiny.splits().train.subset(torch.arange(10)), "dc:epochs=1", tiny.splits().test, network=f"misfits:{name}", trials=1)
        else:
            ds.Supervised(networks=[f"misfits:{name}"], count=1, epochs=1).fit(tiny.splits().train)  # type: ignore[arg-type]


def test_the_cause_is_kept_and_a_checkpoint_too(tmp_path: Path) -> None:
    run = tiny.run().model_copy(update={"method": misfits.FailsInTheSecond()})
    with pytest.raises(InputError) as caught:
        tiny.distill(run, tmp_path / "run", every=0.0)
    assert caught.value.__cause__ is not None
    assert isinstance(caught.value.__cause__.__cause__, IndexError)
    assert (tmp_path / "run" / "state.pt").exists()


def test_what_labels_real_images_is_inside_the_boundary() -> None:
    class Labels(tiny.Pull):
        def labeler(self, task: ds.Task) -> Any:
            return Labeler("mine", lambda batch: batch.labels)

    run = tiny.run().model_copy(update={"method": Labels()})
    found = labeler(run, tiny.task(run))
    assert found is not None
    with input_error("Labels.labeler: its label raised AttributeError", "no attribute 'labels'", "test_foreign.py, line"):
        found.label(tiny.task(run).random_real(1, ds.RNG(0)))


def test_a_plugin_that_goes_by_the_name_of_its_class_is_named_once(run_cli: Call) -> None:
    see(run_cli("distill", *DM, "plugins=misfits:TermBackward", "--out", "run"), (2, ": plug-in misfits:TermBackward raised RuntimeError"))


def test_errors_of_ours_are_not_hidden() -> None:
    assert not is_foreign(ds.DM().__class__)
    with pytest.raises(ZeroDivisionError):
        ds.find(ds.Plugin, "total_variation")().loss(1 / 0, None, ds.RNG(0))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        ds.find(ds.Plugin, "total_variation")().loss(None, None, ds.RNG(0))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt), calling("it", "misfits"):
        raise KeyboardInterrupt
