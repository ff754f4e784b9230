"""What every method, plug-in and parametrization keeps, checked over all that the families hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill import checkpoint
from datastill.core import Method, Plugin, Protocol
from datastill.data import Source
from datastill.description import Family, load
from datastill.digest import dump, to_toml
from datastill.errors import InputError, RunError
from datastill.loop import Loop
from datastill.nets import Architecture
from datastill.parametrization import Parametrization
from datastill.registry import find, kind, members
from datastill.rng import RNG
from datastill.run import check_run
from datastill.running import begin
from datastill.teachers import Pool
from kit import Told, input_error

FAMILIES: list[Any] = [Method, Plugin, Parametrization, Architecture, Protocol, Source, Pool]
MEMBERS = [(family, name) for family in FAMILIES for name in members(family)]


def content(folder: Path) -> dict[str, bytes]:
    """The finished artifact, byte for byte."""
    return {name: (folder / name).read_bytes() for name in ("synthetic.safetensors", "card.json", "preview.png")}


def with_plugin(name: str, **options: Any) -> dict[str, Any]:
    return {"plugins": {name: {"weight": 0.5, **tiny.plugin_options(name), **options}}}


@pytest.mark.parametrize(("plugin", "parametrization"), [
    *((plugin, "pixels") for plugin in tiny.PLUGINS), *(("sdc", one) for one in tiny.PARAMETRIZATIONS if one != "pixels")])
@pytest.mark.parametrize("method", tiny.METHODS)
def test_runs_with_each_other(method: str, plugin: str, parametrization: str, tmp_path: Path) -> None:
    run = tiny.run(method, parametrization=parametrization, **with_plugin(plugin))
    images = tiny.distill(run, tmp_path / "run").batch()
    each = run.parametrization.labels(torch.eye(10)).shape[0] // 10
    assert images.x.shape == (10 * each, 1, 8, 8)
    assert images.x.isfinite().all()
    torch.testing.assert_close(images.y.sum(1), torch.ones(10 * each))
    assert images.y.argmax(1).tolist() == [c for c in range(10) for _ in range(each)]


@pytest.mark.parametrize("parametrization", tiny.PARAMETRIZATIONS)
@pytest.mark.parametrize("method", tiny.iterating())
def test_moves_the_images(method: str, parametrization: str, tmp_path: Path) -> None:
    run = tiny.run(method, parametrization=parametrization)
    start = begin(run, tiny.task(run)).synthetic.batch().x
    assert not torch.equal(tiny.distill(run, tmp_path / "run").batch().x, start)


@pytest.mark.parametrize("method", ["distribution", "gradient", "attention"])
def test_architectures_are_drawn_for_every_iteration(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    among = [tiny.NETWORK, "convnet:width=4,depth=1"]
    run = tiny.run(method, method_options={"networks": among})
    task = check_run(run, tiny.splits().train, root=tiny.ROOT)
    synthetic = run.method.start(task, 1, RNG(0))
    depths = [len(next(iter(run.method.iterate(number, synthetic, task, RNG(0)("iteration", number)))).net.maps(synthetic.decode()))  # type: ignore[operator]
              for number in range(12)]
    assert set(depths) == {1, 2}
    with input_error("lenet"):
        check_run(tiny.run(method, method_options={"networks": [tiny.NETWORK, "lenet"]}), tiny.splits().train, root=tiny.ROOT)


@pytest.mark.parametrize("plugin", tiny.PLUGINS)
@pytest.mark.parametrize("method", tiny.iterating())
def test_weight_zero_is_no_plugin(method: str, plugin: str, tmp_path: Path) -> None:
    plain = tiny.distill(tiny.run(method), tmp_path / "plain").batch().x
    zero = tiny.distill(tiny.run(method, **with_plugin(plugin, weight=0.0)), tmp_path / "zero").batch().x
    full = tiny.distill(tiny.run(method, **with_plugin(plugin, weight=0.5)), tmp_path / "full").batch().x
    assert torch.equal(plain, zero)
    assert not torch.equal(plain, full)


@pytest.mark.parametrize("plugin", tiny.PLUGINS)
@pytest.mark.parametrize("method", tiny.iterating())
def test_plugin_is_pure(method: str, plugin: str) -> None:
    """It leaves the network, the synthetic set and torch's generator as they were, and gives the same again."""
    run = tiny.run(method)
    task = tiny.task(run)
    synthetic = run.method.start(task, 1, RNG(0))
    for parameter in synthetic.groups().values():
        parameter.requires_grad_()
    step = next(iter(run.method.iterate(0, synthetic, task, RNG(0, "iteration"))))
    before = [v.clone() for v in (*step.net.state_dict().values(), *synthetic.state_dict().values())]
    generator, mode = torch.random.get_rng_state(), step.net.training
    first, second = (tiny.plugin(plugin).loss(step, task, RNG(1)) for _ in range(2))
    after = [*step.net.state_dict().values(), *synthetic.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert step.net.training == mode
    assert first.shape == ()
    assert torch.equal(first, second)


@pytest.mark.parametrize("plugin", tiny.PLUGINS)
@pytest.mark.parametrize("method", tiny.iterating())
def test_plugin_does_not_disturb_the_methods_draws(method: str, plugin: str) -> None:
    """With all learning rates 0 the method sees the same images, so its losses must be the same with and without."""
    lines = []
    for extra in ({}, with_plugin(plugin)):
        run = tiny.run(method, method_options={"optim": {}}, **extra)
        still = run.method.model_copy(update={"optim": ds.Optim(images=ds.Group(lr=1e-30))})
        loop = Loop(still, {kind(p): p for p in run.plugins}, tiny.task(run), RNG(0), 1)
        lines.append([loop.advance()["method"] for _ in range(still.iterations)])
    assert lines[0] == lines[1]


@pytest.mark.parametrize("plugin", [None, *tiny.PLUGINS])
@pytest.mark.parametrize("method", tiny.METHODS)
def test_same_run_twice_is_identical(method: str, plugin: str | None, tmp_path: Path) -> None:
    run = tiny.run(method, **(with_plugin(plugin, balance="gradient") if plugin else {}))
    for name in ("a", "b"):
        torch.manual_seed(hash(name))  # torch's own generator must not matter
        tiny.distill(run, tmp_path / name)
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.mark.parametrize("plugin", [None, *tiny.PLUGINS])
@pytest.mark.parametrize("method", tiny.iterating())
def test_stop_and_resume_is_the_unbroken_run(method: str, plugin: str | None, tmp_path: Path) -> None:
    run = tiny.run(method, **(with_plugin(plugin, balance="gradient") if plugin else {}))
    tiny.distill(run, tmp_path / "whole")
    for _ in range(run.method.iterations):
        with pytest.raises(RunError, match="run the same command to continue"):
            tiny.distill(run, tmp_path / "broken", progress=Told(stop_at=0))
    tiny.distill(run, tmp_path / "broken")
    assert content(tmp_path / "whole") == content(tmp_path / "broken")
    assert [line["iteration"] for line in checkpoint.read_log(tmp_path / "broken")] == list(range(1, run.method.iterations + 1))


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_description_round_trip(family: type[Family], name: str) -> None:
    member = find(family, name)()
    assert kind(member) == name
    assert load(family, dump(member)) == member
    assert to_toml(member)


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_unknown_settings_are_refused_with_the_known_ones(family: type[Family], name: str) -> None:
    with pytest.raises(InputError, match="unknown key 'nonsense'"):
        load(family, {"kind": name, "nonsense": 1})


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_is_documented(family: type[Family], name: str) -> None:
    member = find(family, name)
    assert member.__doc__
    assert member.__doc__ != family.__doc__
    assert member.__module__.rpartition(".")[2] == name


@pytest.mark.parametrize("name", tiny.PARAMETRIZATIONS)
def test_decode_gives_back_what_was_encoded(name: str) -> None:
    task = tiny.task(tiny.run(parametrization=name))
    start = task.random_real(2 * task.parametrization.starts, RNG(0))
    everything, rows = task.synthetic(start), torch.tensor([11, 3])
    assert (everything.stored, everything.ipc) == (20, 2)
    assert len(everything) == len(everything.decode()) == task.decoded(2)
    assert everything.decode().shape[1:] == task.real.shape
    if name == tiny.LATENT:  # a network, whose convolutions round otherwise for fewer images on some processors
        torch.testing.assert_close(everything.batch(rows).x, everything.decode()[rows])
    else:
        assert torch.equal(everything.batch(rows).x, everything.decode()[rows])
    assert torch.equal(everything.batch(rows).y, everything.y()[rows])
