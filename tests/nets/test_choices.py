"""Choices: long work measures once, keeps what it found, and keeps to it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill.errors import Stopped
from datastill.nets import choices, choosing, fresh, passes
from datastill.nets._timing import candidates, measure
from datastill.nets.choices import machine
from datastill.nets.convnet import ConvNet
from datastill.nets.forms import Form
from datastill.nets.lenet import LeNet
from datastill.nets.mlp import MLP
from datastill.nets.resnet18 import ResNet18
from datastill.nets.vgg11 import VGG11
from datastill.progress import Progress
from datastill.rng import RNG
from kit import input_error

CPU = torch.device("cpu")
X = RNG("images").normal(7, 3, 16, 16)
NET = fresh(ConvNet(width=4), (3, 16, 16), 5, RNG(0), CPU)
FOUND = Form(chunk=2, kernels="torch")


class Measured:
    """Stands in for ``choose``: counts how often it is asked, and answers ``form``."""

    def __init__(self, form: Form = FOUND, busy: bool = False) -> None:
        self.asked, self.form, self.busy = list[str](), form, busy

    def __call__(self, network: Any, x: Any, kind: str, usual: Form, compiling: bool) -> tuple[Form, dict[str, float] | None]:
        self.asked.append(kind)
        return (usual, None) if self.busy else (self.form, {str(self.form): 1e-3, str(usual): 2e-3})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    found = Measured()
    monkeypatch.setattr(choices, "choose", found)
    return found


def test_short_work_measures_nothing(measured: Measured, tmp_path: Path) -> None:
    with choosing(tmp_path, tmp_path / "record.json", repeats=1000) as chosen:
        assert passes(NET, X, "features").form == Form(chunk=7)
    assert (measured.asked, chosen.facts, list(tmp_path.iterdir())) == ([], {}, [])


def test_long_work_measures_each_kind_of_pass_once(measured: Measured, tmp_path: Path) -> None:
    with choosing(tmp_path, repeats=10**12) as chosen:
        for _ in range(3):
            assert passes(NET, X, "features").form == passes(NET, X, "weights").form == FOUND
            assert passes(fresh(ConvNet(width=4), (3, 16, 16), 5, RNG(1), CPU), X, "weights").form == FOUND  # another of its kind
    assert measured.asked == ["features", "weights"]
    assert set(chosen.facts["speed"].values()) == {"2 at once, torch"}
    with choosing(tmp_path, repeats=10**12):  # other work, later
        assert passes(NET, X, "features").form == FOUND
        assert measured.asked == ["features", "weights"]
        passes(NET, X[:5], "features")
        passes(fresh(ConvNet(width=8), (3, 16, 16), 5, RNG(0), CPU), X, "features")
    assert measured.asked == ["features", "weights", "features", "features"]
    assert passes(NET, X, "features").form == Form(chunk=7)  # outside


def test_the_bound_that_needs_no_pass_is_one(tmp_path: Path) -> None:
    for network in (ConvNet(width=4), ConvNet(width=4, depth=1, pooling="none"), MLP(width=8), LeNet(), VGG11(width=4), ResNet18(width=4)):
        for shape in ((1, 32, 32), (3, 32, 32)):
            net, x = fresh(network, shape, 5, RNG(0), CPU), torch.zeros(1, *shape)
            assert 0 < choices._flop(net, vars(net)["_origin"], x) < choices._at_most(net, x)


class Outside(ds.Architecture):
    """A network of somebody else's, which cannot be copied."""

    def build(self, shape: Any, classes: int) -> torch.nn.Module:
        net = MLP(width=8).build(shape, classes)
        net.__dict__["uncopied"] = (one for one in ())
        return net


def test_networks_from_outside_are_passed_as_usual(measured: Measured, tmp_path: Path) -> None:
    net = fresh(Outside(), (3, 16, 16), 5, RNG(0), CPU)
    with choosing(tmp_path, repeats=10**12):
        assert passes(net, X, "features").form == Form(chunk=7)
    assert measured.asked == []


@pytest.mark.parametrize("repeats", [1, 10**12])
def test_a_training_says_itself_how_long_it_is(repeats: int, measured: Measured, tmp_path: Path) -> None:
    with choosing(tmp_path):
        passes(NET, X, "weights", repeats)
    assert len(measured.asked) == (repeats > 1)


def test_portable_work_measures_nothing_and_reads_nothing(measured: Measured, tmp_path: Path) -> None:
    with choosing(tmp_path, repeats=10**12):
        passes(NET, X, "features")
    with choosing(tmp_path, repeats=10**12, portable=True):
        assert passes(NET, X, "features").form == Form(chunk=7)
    assert measured.asked == ["features"]


def test_a_plan_writes_nothing(measured: Measured, tmp_path: Path) -> None:
    with choosing(tmp_path / "speed", repeats=10**12, keep=False):
        assert passes(NET, X, "features").form == FOUND
    assert not (tmp_path / "speed").exists()


def test_work_keeps_to_its_record(measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "record.json"
    with choosing(tmp_path / "a", record, repeats=10**12):
        passes(NET, X, "features")
    measured.form = Form(chunk=3)
    monkeypatch.setattr(choices, "machine", lambda: {"processor": "another"})
    with choosing(tmp_path / "b", record, repeats=10**12):
        assert passes(NET, X, "features").form == FOUND
        assert passes(NET, X, "weights").form == Form(chunk=3)
    with choosing(tmp_path / "c", record):  # whatever is worth it now
        assert passes(NET, X, "weights").form == Form(chunk=3)
    record.write_bytes(record.read_bytes().replace(b'"chunk": 2', b'"chunk": 4'))
    with input_error(str(record), "checksum", "delete it"), choosing(tmp_path, record):
        pass


@pytest.mark.parametrize("content", [{"choices": {"a": {"chunk": 0}}}, {"choices": [1]}, {}, {"choices": {"a": {"chunk": 3, "new": 1}}}])
def test_a_record_of_another_version_is_named(content: dict[str, Any], tmp_path: Path) -> None:
    choices.write_record(tmp_path / "record.json", content)
    with input_error("record.json is damaged, or of another version of datastill; delete it"), choosing(tmp_path, tmp_path / "record.json"):
        pass


def test_portable_work_is_continued_as_it_was_begun(measured: Measured, tmp_path: Path) -> None:
    """Its numbers would change in the middle of it."""
    with choosing(tmp_path, tmp_path / "record.json", repeats=10**12, portable=True):
        assert passes(NET, X, "features").form == Form(chunk=7)
    with choosing(tmp_path, tmp_path / "record.json", repeats=10**12):
        assert passes(NET, X, "features").form == Form(chunk=7)
    assert not measured.asked


@pytest.mark.parametrize("damage", ["machine", "bytes", "text", "form"])
def test_a_file_that_cannot_be_used_is_measured_again(damage: str, measured: Measured, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    with choosing(tmp_path, repeats=10**12):
        passes(NET, X, "features")
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_text())
    match damage:
        case "machine":  # of another version, under this name
            content["machine"]["torch"] = "0.1"
            choices.write_record(path, {key: value for key, value in content.items() if key != "checksum"})
        case "bytes":
            path.write_bytes(path.read_bytes()[:-20])
        case "text":
            path.write_text("[]")
        case "form":
            next(iter(content["choices"].values()))["form"]["chunk"] = "many"
            choices.write_record(path, {key: value for key, value in content.items() if key != "checksum"})
    measured.form = Form(chunk=3)
    with choosing(tmp_path, repeats=10**12):
        assert passes(NET, X, "features").form == Form(chunk=3)
    with choosing(tmp_path, repeats=10**12):
        assert passes(NET, X, "features").form == Form(chunk=3)
    assert measured.asked == ["features", "features"]


def test_on_a_busy_machine_nothing_is_kept(measured: Measured, tmp_path: Path) -> None:
    measured.busy = True
    with choosing(tmp_path, repeats=10**12):
        assert passes(NET, X, "features").form == passes(NET, X, "features").form == Form(chunk=7)
    assert (measured.asked, list(tmp_path.glob("*.json"))) == (["features"], [])


def test_a_folder_that_cannot_be_written_to_stops_nothing(measured: Measured, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "speed").write_text("in the way")
    with caplog.at_level(logging.WARNING, "datastill"), choosing(tmp_path / "speed", repeats=10**12):
        assert passes(NET, X, "features").form == FOUND
    assert "cannot be kept" in caplog.text


def taking(seconds: dict[Form, list[float]], monkeypatch: pytest.MonkeyPatch) -> tuple[Form, dict[str, float] | None]:
    """What ``choose`` makes of these times."""
    monkeypatch.setattr("datastill.nets._timing.measure", lambda work, device: seconds)
    return choices.choose(NET, X, "features", Form(chunk=7))


def test_the_fastest_form_is_chosen_if_it_is_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, other, third = Form(chunk=7), Form(chunk=1), Form(chunk=7, kernels="torch")
    assert taking({usual: [1.0, 1.1, 1.0], other: [0.8, 0.9, 5.0], third: [0.7, 0.95, 0.95]}, monkeypatch)[0] == other
    assert taking({usual: [1.0, 1.1, 1.0], other: [0.97, 0.97, 0.97]}, monkeypatch)[0] == usual
    form, timed = taking({usual: [1.0, 1.1, 1.0], other: [0.7, 0.7, 0.7]}, monkeypatch)
    assert timed == {str(usual): round(1 / 7, 9), str(other): round(0.7 / 7, 9)}
    assert form == other


def test_a_busy_machine_cannot_tell(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "datastill"):
        found = taking({Form(chunk=7): [1.0, 2.0, 3.0], Form(chunk=1): [0.1, 0.1, 0.1]}, monkeypatch)
    assert found == (Form(chunk=7), None)
    assert "too busy" in caplog.text


def test_forms_are_really_measured() -> None:
    """The real thing, small: every candidate of every kind of pass, and nothing is disturbed."""
    state, before = torch.get_rng_state(), {name: value.clone() for name, value in NET.state_dict().items()}
    for kind in ("features", "pixels", "weights", "second"):
        form, timed = choices.choose(NET, X, kind, Form(chunk=7))  # type: ignore[arg-type]
        assert timed is None or {str(form), str(Form(chunk=7)), str(Form(chunk=1, kernels="torch", channels_last=True))} <= set(timed)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in NET.state_dict().items())
    assert all(one.grad is None for one in NET.parameters())


def test_a_form_that_fails_is_left_out() -> None:
    def failing() -> None:
        raise RuntimeError("out of memory")
    assert list(measure({Form(chunk=1): lambda: None, Form(chunk=2): failing}, CPU)) == [Form(chunk=1)]


def test_images_that_are_coupled_stay_together() -> None:
    coupled = fresh(ConvNet(width=4, norm="batch"), (3, 16, 16), 5, RNG(0), CPU)
    assert {form.chunk for form in candidates(coupled, Form(chunk=7), False)} == {7}
    assert {form.chunk for form in candidates(NET, Form(chunk=20), False)} == {5, 20}


def test_the_machine_is_described_the_same_every_time() -> None:
    assert machine() == machine()
    assert {"processor", "instructions", "torch"} <= set(machine())


class Stopping(Progress):
    def tell(self, done: int, of: int, note: str = "") -> None:
        if done == 1 and note:
            raise Stopped


def test_a_long_run_records_its_forms_and_continues_with_them(measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "WORTH", 0.0)
    whole = tiny.distill(tiny.run(), tmp_path / "whole", root=tmp_path)
    card = json.loads((tmp_path / "whole" / "card.json").read_text())
    assert set(card["computed"]["speed"].values()) == {"2 at once, torch"}
    with pytest.raises(Stopped):
        tiny.distill(tiny.run(), tmp_path / "parts", root=tmp_path, progress=Stopping())
    measured.form = Form(chunk=5)
    monkeypatch.setattr(choices, "machine", lambda: {"processor": "another"})
    assert torch.equal(tiny.distill(tiny.run(), tmp_path / "parts", root=tmp_path).batch().x, whole.batch().x)
    tiny.distill(tiny.run(), tmp_path / "usual", root=tmp_path, portable=True)
    assert "speed" not in json.loads((tmp_path / "usual" / "card.json").read_text())["computed"]
