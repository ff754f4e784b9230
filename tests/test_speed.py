"""tune-speed: the passes of a recipe's iteration and student are measured and kept, and nothing else is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import datastill as ds
import tiny
from datastill.nets import choices, choosing, forms, passes
from datastill.nets.forms import Form
from datastill.rng import RNG
from kit import input_error

Cli = Callable[..., tuple[int, str, str]]
@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes half a minute; ``nets/test_forms.py`` does it."""
    monkeypatch.setattr(forms, "_broken", ["not here"])


SMALL = ["network=convnet:width=4,depth=2", "method.batch_real=8"]


def test_what_is_measured_is_kept(run_cli: Cli, tmp_path: Path) -> None:
    code, text, error = run_cli("tune-speed", "dm/digits-ipc1", *SMALL, "protocol.epochs=3")
    assert code == 0, error
    for kind in ("features of", "pixels of", "weights of"):
        assert f"{kind} convnet:width=4,depth=2, " in text
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"speed"}
    found = list((tmp_path / "outputs" / "speed").glob("*.json"))
    if "too busy" not in text:
        (path,) = found
        kept = json.loads(path.read_text())["choices"]
        assert len(kept) >= 3
        assert all(len(one["seconds"]) >= 3 for one in kept.values())


def test_later_work_uses_it(tmp_path: Path) -> None:
    workspace = ds.Workspace(tmp_path)
    run = tiny.run()
    found = workspace.tune_speed(run)
    kept = {key: timed.form for key, timed in found.items() if timed.seconds}
    net = tiny.task(run).fresh(RNG(0))
    x = tiny.splits().train.batch(torch.arange(80)).x  # 8 real images of 10 classes
    with choosing(tmp_path / "speed", repeats=10**12) as chosen:
        form = passes(net, x, "features").form
    assert isinstance(form, Form)
    for key, one in chosen.used.items():
        assert kept.get(key, one) == one


def test_a_recipe_that_is_not_there(run_cli: Cli) -> None:
    code, _, error = run_cli("tune-speed", "dm/digit-ipc1")
    assert code == 2
    assert "dm/digits-ipc1" in error
    with input_error("expected"):
        ds.Workspace().tune_speed(3)  # type: ignore[arg-type]


def test_the_plan_and_the_page_say_what_was_chosen(run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "WORTH", 0.0)
    monkeypatch.setattr(choices, "choose", lambda network, x, kind, usual, compiling: (Form(chunk=2, kernels="torch"), {"2 at once, torch": 1e-3}))
    small = [*SMALL, "method.iterations=2", "protocol.epochs=1"]
    code, text, error = run_cli("plan", "dm/digits-ipc1", *small)
    assert code == 0, error
    assert "2 at once, torch" in text
    assert not Path("outputs").exists()
    assert "2 at once" not in run_cli("plan", "dm/digits-ipc1", *small, "--portable")[1]
    assert run_cli("distill", "dm/digits-ipc1", *small, "--out", "set")[0] == 0
    assert run_cli("evaluate", "set", "--trials", "1", "--portable")[0] == 0
    assert run_cli("report", "set")[0] == 0
    assert "2 at once, torch" in Path("set/report.html").read_text()
    assert Path("set/speed.json").exists()
    assert run_cli("distill", "dm/digits-ipc1", *small, "--out", "usual", "--portable")[0] == 0
    record = json.loads(Path("usual/speed.json").read_text())
    assert (record["choices"], record["portable"]) == ({}, True)


def test_what_could_not_be_kept_is_not_said_to_be(run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "choose", lambda network, x, kind, usual, compiling: (Form(chunk=2, kernels="torch"), {"2 at once, torch": 1e-3}))
    code, text, error = run_cli("tune-speed", "dm/digits-ipc1", *SMALL, "--root", "good")
    assert (code, "Kept in good/speed" in text) == (0, True), error
    (name,) = (path.name for path in Path("good/speed").glob("*.json"))
    (Path("blocked/speed") / name).mkdir(parents=True)
    code, text, error = run_cli("tune-speed", "dm/digits-ipc1", *SMALL, "--root", "blocked")
    assert (code, "Kept in" in text, "Nothing is kept" in text) == (0, False, True)
    assert "is a directory" in error
    Path("file").write_text("")
    code, text, error = run_cli("tune-speed", "dm/digits-ipc1", *SMALL, "--root", "file")
    assert code == 2
    assert "cannot write to file/speed" in error
