"""Python called in the wrong way: one line that says what to pass, before any work; and what is plain enough simply works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import datastill as ds
import tiny
from datastill import losses
from kit import input_error

EYE = torch.eye(2)
PLAIN, FLAT = torch.zeros(1, 1, 2, 2), torch.nn.Flatten()
HALF = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))


def distill(**wrong: Any) -> ds.Distilled:
    given = {"run": tiny.Pull(iterations=2), "images": tiny.splits().train, "out": "run", "ipc": 1, "network": tiny.NETWORK}
    return ds.distill(**{**given, **wrong})


def made() -> Path:
    return WORKSPACE.distill(tiny.run("coreset", data="digits"), Path("run"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("wrong", "says"), [
    ({"keep": 1}, "keep: expected a list of iterations"), ({"keep": None}, "keep: expected a list"), ({"keep": "1"}, "keep: expected a list"),
    ({"keep": [-1]}, "keep: expected a whole number, 0 or more, got -1"), ({"keep": [True]}, "keep: expected a whole number"),
    ({"keep": [1000]}, "keep: 1000 is more than the 2 iterations of the run"), ({"keep": [1.5]}, "got 1.5"),
    ({"every": "a"}, "every: expected a number of seconds"), ({"every": -1}, "got -1"), ({"every": float("nan")}, "got nan"),
    ({"about": 5}, "about: expected a dict"), ({"about": {"x": object()}}, "about: expected a dict of finite numbers"),
    ({"about": {"x": "\ud800"}}, "about: expected a dict of finite numbers, valid text"), ({"about": {"x": [float("nan")]}}, "about: expected a dict of finite"),
    ({"about": {"run": 7}}, "about: 'run' is an entry of the card's own; choose another name"), ({"about": {"schema": 1}}, "about: 'schema' is"),
    ({"about": {"protocol": 5}}, "about.protocol: input should be a valid dictionary, got 5"), ({"about": {"recipe": 7}}, "about.recipe: input should be a valid string, got 7"),
    ({"about": {"published": {"std": 1}}}, "about.published.accuracy is missing"), ({"about": {"protocol": {"kind": "nope"}}}, "about.protocol: unknown protocol 'nope'"),
    ({"progress": print}, "progress: expected an object of a subclass of datastill.Progress"),
    ({"out": 5}, "out: expected a path, got 5"), ({"out": "a\0b"}, "null character"), ({"out": ""}, "out: expected a path, got ''"), ({"root": None}, "root: expected a path, got None"),
    ({"out": "x" * 400}, "out: 'xxx"), ({"out": "a\ud800"}, "outside Unicode"), ({"every": 10**400}, "every: expected a number of seconds"),
    ({"wait": "x"}, "wait: expected True or False, got 'x'"), ({"keep": [10**30]}, "from 0 to 9223372036854775807, got 1000000"),
    ({"data_root": 3.0}, "data_root: expected a path"), ({"run": None}, "method: expected a table, got None"), ({"images": None}, "map-style dataset"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else value)
def test_distill(wrong: dict[str, Any], says: str, tmp_path: Path) -> None:
    with input_error(says):
        distill(**wrong)
    assert not list(tmp_path.iterdir())


WORKSPACE = ds.Workspace("root", "data", "cpu")
CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: ds.distill(ds.DM, tiny.splits().train, 10), "out: expected a path, got 10"),  # type: ignore[arg-type]
    (lambda: ds.DM(5), "dm: settings are given by name"), (lambda: ds.Run(5), "Run: settings are given by name, as in method=5"),  # type: ignore[call-arg]
    (lambda: ds.DistributionMatching(5), "settings are given by name"),  # type: ignore[call-arg]
    (lambda: ds.DM(kind="gradient"), "dm: its kind is DistributionMatching, got kind='gradient'"),
    (lambda: ds.Run(method=ds.Method), "method: expected a table"),  # type: ignore[arg-type]
    (lambda: WORKSPACE.load(None), "expected a table, got None"), (lambda: WORKSPACE.load("digitz"), "did you mean 'digits'"),  # type: ignore[arg-type]
    (lambda: WORKSPACE.distill(ds.DM()), "expected the name of a recipe or a Run"), (lambda: WORKSPACE.plan(5), "expected the name of a recipe"),  # type: ignore[arg-type]
    (lambda: WORKSPACE.foresee("nope"), "expected a Study"), (lambda: WORKSPACE.study("nope", "x"), "expected a Study"),  # type: ignore[arg-type]
    (lambda: WORKSPACE.plan("dm/digits-ipc1", 5), "progress: expected an object of a subclass"),  # type: ignore[arg-type]
    (lambda: WORKSPACE.score("run", "mlp"), "evaluation: expected one of Workspace.evaluations, got 'mlp'"),  # type: ignore[arg-type]
    (lambda: WORKSPACE.report(["a"], "x.html", scores=5), "scores: expected a path, got 5"),  # type: ignore[list-item, arg-type]
    (lambda: WORKSPACE.report(["a"], "x.html", scores="s"), "a holds no distilled set"),  # type: ignore[list-item, arg-type]
    (lambda: WORKSPACE.evaluations(made(), 5), "networks: expected a table, got 5; a name such as 'alexnet'"),  # type: ignore[arg-type]
    (lambda: WORKSPACE.load_of("nowhere"), "nowhere holds no distilled set"),  # type: ignore[arg-type]
    (lambda: WORKSPACE.tune(5, "mlp", "digits", 1), "protocols: expected a table, got 5; a name such as"),  # type: ignore[arg-type]
    (lambda: WORKSPACE.task(5), "expected a table, got 5; in Python a dict or Run"), (lambda: WORKSPACE.check(5), "a dict or Run"),  # type: ignore[arg-type]
    (lambda: WORKSPACE.run_folder(5), "a dict or Run"), (lambda: WORKSPACE.study_folder(5), "name: expected text, got 5"),  # type: ignore[arg-type]
    (lambda: ds.Data().load(None), "root: expected a path, got None"),  # type: ignore[arg-type]
    (lambda: ds.score("x", None, full="x"), "full: expected True or False, got 'x'"),  # type: ignore[arg-type]
    (lambda: ds.score("x", None, trials=10**30), "trials: expected a whole number from 1 to 9223372036854775807, got 1000000"),
    (lambda: ds.Workspace(5), "root: expected a path, got 5"), (lambda: ds.Workspace("a", "b", 5), "--device 5"),  # type: ignore[arg-type]
    (lambda: ds.merge(5, "x"), "folders: expected a list of paths, got 5"), (lambda: ds.merge([5], "x"), "folders: expected a path"),  # type: ignore[arg-type, list-item]
    (lambda: ds.load(None), "folder: expected a path, got None"), (lambda: ds.score(None, None), "folder: expected a path"),  # type: ignore[arg-type]
    (lambda: ds.score("x", None, trials="2"), "trials: expected a whole number, 1 or more, got '2'"),  # type: ignore[arg-type]
    (lambda: ds.score("x", None, seed=-1), "seed: expected a whole number, 0 or more, got -1"),
    (lambda: ds.evaluate("run", "dc", tiny.splits().test), "holds no distilled set"),
    (lambda: losses.dm(HALF, torch.tensor([0, 1, 0, 1]), HALF, HALF), "labels: expected probabilities (4, K), got torch.int64 of shape (4,)"),
    (lambda: losses.class_means(HALF, torch.zeros(3, 2)), "got torch.float32 of shape (3, 2)"),
    (lambda: losses.cclom(None, HALF, torch.tensor([0, 1, 0, 1]), HALF, HALF), "one_hot"),
    (lambda: losses.class_distance_share(HALF, HALF, HALF, torch.zeros(4, dtype=torch.long)), "one_hot"),
    (lambda: losses.clom(None, PLAIN, torch.tensor([0])), "one teacher, as in teachers[0], or a module, got None"),
    (lambda: losses.clom(FLAT, PLAIN.byte(), torch.tensor([0])), "clom: expected images (B, C, H, W) in floating point, got torch.uint8"),
    (lambda: losses.clom(FLAT, PLAIN.numpy(), torch.tensor([0])), "clom: expected images"),
    (lambda: losses.clom(FLAT, PLAIN[:0], torch.tensor([0])), "clom: expected images"),
    (lambda: losses.clom(FLAT, PLAIN, torch.tensor([0.0])), "class numbers (1,) or probabilities (1, K), got torch.float32"),
    (lambda: losses.clom(FLAT, PLAIN, torch.tensor([0, 1])), "class numbers (1,) or probabilities (1, K), got torch.int64 of shape (2,)"),
    (lambda: losses.cclom(FLAT, PLAIN, EYE[:1], PLAIN, EYE[:1]), "cclom: expected one teacher, as in teachers[0], or a network with embed, got Flatten"),
    (lambda: losses.total_variation(PLAIN.byte()), "total_variation: expected images (B, C, H, W) in floating point, got torch.uint8"),
    (lambda: losses.total_variation(None), "total_variation: expected images (B, C, H, W) in floating point, got None"),
    (lambda: ds.Run(method="dm", network=torch.nn.Linear(2, 2)), "network: expected a table, got Linear(in_features=2, out_features=2, bias=True); a name such as 'alexnet'; in Python a dict or Architecture"),
    (lambda: ds.Run(method="dm", network=[0] * 999), "network: expected a table, got [0, 0, 0,"),
    (lambda: losses.clom(FLAT, PLAIN, torch.tensor([99])), "losses.clom: IndexError: Target 99 is out of bounds.; given: Flatten(start_dim=1, end_dim=-1), torch.float32 of shape (1, 1, 2, 2), torch.int64 of shape (1,)"),
    (lambda: losses.mean_feature_distance(EYE, HALF), "losses.mean_feature_distance: RuntimeError: The size of tensor"),
    (lambda: losses.class_means(HALF, [0, 1, 0, 1]), "losses.class_means: AttributeError"), (lambda: losses.attention(None), "given: None"),  # type: ignore[arg-type]
    (lambda: losses.gradient_distance([EYE], [EYE], "nope"), "metric: expected one of layerwise, mse, cosine, l1, l1_mean, got 'nope'"),  # type: ignore[arg-type]
    (lambda: losses.gradient_distance([EYE], []), "two lists of gradients of the same network"),
    (lambda: losses.gradient_distance([EYE[0]], [EYE[0]]), "layerwise ignores vectors"),
    (lambda: losses.trajectory_distance(EYE, EYE, EYE), "start and target are equal"),
    (lambda: losses.mean_of_right(torch.zeros(2, 4, 3), HALF), "expected logits (E, N, K) and class indices (N,)"),
    (lambda: losses.attention(HALF[0]), "expected a feature map (B, C, H, W) or (B, D)"),
    (lambda: losses.gradient_norm([]), "expected a list of gradients"),
    (lambda: ds.find(ds.Method, None), "expected the name of a method, got None"), (lambda: ds.find("Method", "dm"), "expected a family"),
    (lambda: ds.RNG(None), "a stream is named by whole numbers and text, got None"),  # type: ignore[arg-type]
    (lambda: losses.total_variation(torch.zeros(3, 8, 8)), "expected images (B, C, H, W)"),
    (lambda: ds.load(""), "folder: expected a path, got ''"),
    (lambda: ds.Run(method="dm", ipc=10**5000), "ipc: expected at most 1000000000, got a value of type int"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("number", range(len(CALLS)), ids=[says for _, says in CALLS])
def test_one_line_says_what_to_pass(number: int) -> None:
    call, says = CALLS[number]
    with input_error(says):
        call()


def test_what_was_given_takes_part_of_a_line() -> None:
    with pytest.raises(ds.InputError) as caught:
        ds.Run(method="dm", network=torch.zeros(99, 9))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 250
    with pytest.raises(ds.InputError) as caught:
        ds.Run(torch.zeros(99, 9))  # type: ignore[call-arg]
    assert len(str(caught.value)) < 350


def test_what_is_plain_enough_works(tmp_path: Path) -> None:
    assert ds.Run(method=ds.DM) == ds.Run(method=ds.DistributionMatching) == ds.Run(method="dm") != ds.Run(method=ds.MTT)  # type: ignore[arg-type]
    assert ds.Run(method="dm", start_from=Path("a")).start_from == "a"  # type: ignore[arg-type]
    assert ds.Run(method="dm", plugins=ds.TotalVariation()) == ds.Run(method="dm", plugins=[ds.TotalVariation()])  # type: ignore[arg-type]
    assert ds.Data(classes=numpy.array([3, 1])).classes == ("3", "1")  # type: ignore[arg-type]
    assert len({ds.DM(), ds.DM(), ds.DM(iterations=3), ds.Run(method=ds.MTT())}) == 3
    run = tiny.run("coreset", data="digits")
    place = ds.Workspace(str(tmp_path / "root"), ".", "cpu")
    assert place.run_folder({"method": "dm"}) == place.run_folder(ds.Run(method="dm"))  # type: ignore[arg-type]
    network = ds.find(ds.Architecture, "convnet")
    pools = [ds.Supervised(networks=kind) for kind in (network, network(), "convnet", [network])]  # type: ignore[arg-type]
    assert len(set(pools)) == 1
    assert place.distill(run, "folder") == Path("folder")  # type: ignore[arg-type]
    for kinds in (["mlp"], "mlp", ds.find(ds.Architecture, "mlp")):
        assert len(place.evaluations("folder", kinds)) == 1  # type: ignore[arg-type]
    with input_error("expected a name, or name:option=value, got ''"):
        place.evaluations("folder", ["mlp"], "")  # type: ignore[arg-type]
    with input_error("expected a name, or name:option=value, got ''"):
        ds.score("folder", place.load("digits").test, train=place.load("digits").train, protocol="")  # type: ignore[arg-type]
    assert place.report("folder") == Path("folder/report.html")  # type: ignore[arg-type]
    assert place.load("digits").train.shape == (1, 8, 8)  # type: ignore[arg-type]


def test_a_set_in_memory_is_indexed_by_whole_numbers_and_shown_in_one_line() -> None:
    found = distill()
    assert found[-1][1] == 9
    assert torch.equal(found[torch.tensor(2)][0], found.x[2])
    for wrong in (slice(0, 2), [0, 1], 1.5, "a"):
        with pytest.raises(TypeError, match="expected the number of one image"):
            found[wrong]
    assert repr(found) == "<datastill.Distilled: 10 images (1, 8, 8) of 10 classes, hard labels, by tiny:Pull>"


def test_classes_that_are_not_there_and_sides_of_one_pixel_do_not_count() -> None:
    y = torch.nn.functional.one_hot(torch.tensor([0, 1, 0, 1]), 3).float()
    assert losses.dm(HALF, y, HALF + 1, y) == pytest.approx(6.0)
    x = torch.tensor([[1.0, 3.0]]).view(1, 1, 1, 2).requires_grad_()
    assert losses.total_variation(x) == 2.0
    losses.total_variation(x[..., :1]).backward()
    assert x.grad is not None
    assert x.grad.abs().sum() == 0


class Chatty(tiny.Pull):
    """Logs under the name of a plug-in."""

    def iterate(self, *given: Any) -> Any:
        for step in super().iterate(*given):
            yield ds.Step(step.loss, step.batch, step.net, log={"total_variation": 5.0})


def test_a_method_does_not_log_under_the_name_of_a_plugin() -> None:
    with input_error("Chatty logs 'total_variation'", "another label"):
        distill(run=Chatty(), plugins=(ds.TotalVariation(weight=0.1),))


def test_a_plugin_is_asked_only_when_it_has_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    loss = ds.TotalVariation.loss
    monkeypatch.setattr(ds.TotalVariation, "loss", lambda self, step, task, rng: (asked.append(rng.path[2]), loss(self, step, task, rng))[1])
    distill(run=tiny.Pull(iterations=4), plugins=(ds.TotalVariation(schedule="linear"),))
    assert asked == [1, 2, 3]
