"""distill: folders, checkpoints, kills, bad input before the work starts."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from children import Child, distill_slowly
from datastill import artifact, checkpoint, files
from datastill.description import load
from datastill.errors import InputError, RunError, Stopped
from datastill.recipes import read_recipe
from datastill.run import read_run
from kit import Told, input_error, toy_images


def stopped(folder: Path, run: ds.Run, after: int = 1) -> None:
    with pytest.raises(Stopped):
        tiny.distill(run, folder, progress=Told(stop_at=after))


def test_what_lies_in_the_folder(tmp_path: Path) -> None:
    run = tiny.run()
    tiny.distill(run, tmp_path, keep=(1,))
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file() and not p.name.startswith(".")}
    assert found == {"run.toml", "log.jsonl", "card.json", "synthetic.safetensors", "preview.png",
                     *(f"snapshots/{i:06d}.safetensors" for i in (0, 1, 3))}
    assert read_run(tmp_path) == run


def test_finished_run_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny.run()
    first = tiny.distill(run, tmp_path)
    monkeypatch.setattr("datastill.running.Loop", None)
    again = tiny.distill(run, tmp_path)
    assert torch.equal(first.batch().x, again.batch().x)
    assert torch.equal(first.batch().y, again.batch().y)


def test_folder_of_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    tiny.distill(tiny.run(), tmp_path)
    with pytest.raises(InputError, match=r"holds another run \(its method.batch_real is 8, now given: 9\)"):
        tiny.distill(tiny.run(method_options={"batch_real": 9}), tmp_path)
    (tmp_path / "run.toml").write_text("")
    with pytest.raises(InputError, match=r"holds another run \(its method is not set, now given: {.*\.\.\.\)"):
        tiny.distill(tiny.run(), tmp_path)


def test_other_data_is_another_run(tmp_path: Path) -> None:
    run = tiny.run()
    tiny.distill(run, tmp_path)
    fewer = tiny.splits().train.subset(torch.arange(500))
    with pytest.raises(InputError, match="distilled from other data"):
        ds.distill(run, replace(fewer, origin=run.data), tmp_path)
    with pytest.raises(InputError, match=r"holds another run \(its data"):
        ds.distill(run, fewer, tmp_path)


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"not a run folder \(it holds 'thesis.tex'\)"):
        tiny.distill(tiny.run(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] in (["thesis.tex"], ["thesis.tex", ".lock"], [".lock", "thesis.tex"])


def test_second_process_is_refused(tmp_path: Path) -> None:
    code = ("import sys, pathlib; from datastill.store import locked\n"
            "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(InputError, match="in use by another process"):
            tiny.distill(tiny.run(), tmp_path)
        other.kill()
    tiny.distill(tiny.run(), tmp_path)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_unwritable_folder_is_refused_before_the_work(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(InputError, match=r"cannot write to .*(read-only|full|denied).*another folder"):
        tiny.distill(tiny.run(), tmp_path / "run")


def test_disk_that_fills_up_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny.run(method_options={"iterations": 4})
    tiny.distill(run, tmp_path / "whole")
    stopped(tmp_path / "run", run, after=2)
    state = (tmp_path / "run" / "state.pt").read_bytes()

    def full(self: Any, now: bool = False) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.RunLog, "save", full)
        with pytest.raises(RunError, match=r"iteration 3.*the disk is full.*run the same command"):
            tiny.distill(run, tmp_path / "run")
    assert (tmp_path / "run" / "state.pt").read_bytes() == state
    tiny.distill(run, tmp_path / "run")
    assert (tmp_path / "run" / "synthetic.safetensors").read_bytes() == \
        (tmp_path / "whole" / "synthetic.safetensors").read_bytes()


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    run = tiny.run()
    stopped(tmp_path, run)
    state = bytearray((tmp_path / "state.pt").read_bytes())
    state[len(state) // 2] ^= 1
    (tmp_path / "state.pt").write_bytes(state)
    with pytest.raises(InputError, match=r"state\.pt is damaged.*delete it to start"):
        tiny.distill(run, tmp_path)


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    stopped(tmp_path / "a", tiny.run())
    stopped(tmp_path / "b", tiny.run(seed=1))
    (tmp_path / "a" / "state.pt").replace(tmp_path / "b" / "state.pt")
    with pytest.raises(InputError, match="checkpoint of another run"):
        tiny.distill(tiny.run(seed=1), tmp_path / "b")


def test_checkpoint_is_never_unpickled(tmp_path: Path) -> None:
    run = tiny.run()
    stopped(tmp_path, run)
    import hashlib
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "owned",))

    content = pickle.dumps(Evil())
    (tmp_path / "state.pt").write_bytes(hashlib.sha256(content).digest() + content)
    with pytest.raises(InputError, match=r"state\.pt"):
        tiny.distill(run, tmp_path)
    assert not (tmp_path / "owned").exists()


def test_torn_log_line_is_dropped(tmp_path: Path) -> None:
    run = tiny.run()
    stopped(tmp_path, run)
    with (tmp_path / "log.jsonl").open("ab") as log:
        log.write(b'{"iteration": 2, "loss": 1.0}\n{"iterat')
    tiny.distill(run, tmp_path)
    assert [line["iteration"] for line in checkpoint.read_log(tmp_path)] == [1, 2, 3]


def test_ipc_larger_than_a_class(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ipc 500 is more than the \d+ training images of class '\d'; use ipc=\d+ or less"):
        tiny.distill(tiny.run(ipc=500), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_network_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"network lenet does not fit images of 8x8 pixels"):
        tiny.distill(tiny.run(network="lenet"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stop_says_where_and_with_which_exit_code(tmp_path: Path) -> None:
    told = Told(stop_at=2)
    with pytest.raises(Stopped, match=r"^stopped at iteration 2 of 3; run the same command to continue$") as caught:
        tiny.distill(tiny.run(), tmp_path, progress=told)
    assert caught.value.code == 143
    assert told.steps == [(1, 3), (2, 3)]
    assert all(note.startswith("loss ") for *_, note in told.told)
    tiny.distill(tiny.run(), tmp_path, progress=(rest := Told()))
    assert rest.steps == [(3, 3)]


def test_a_stop_before_the_first_iteration(tmp_path: Path) -> None:
    run, told = tiny.run("coreset", method_options={"choose": "herding", "epochs": 3}), Told(stop_at=2)
    with pytest.raises(Stopped, match="stopped before the first iteration; run the same command to continue") as caught:
        tiny.distill(run, tmp_path, progress=told)
    assert caught.value.code == 143
    assert told.told == [(1, 3, "preparing"), (2, 3, "preparing")]


class Wary(tiny.Pull):
    """Says the same in every iteration, and something at the end."""

    def iterate(self, *arguments: Any) -> Any:
        for step in super().iterate(*arguments):
            yield replace(step, caution="mind the gap")

    def conclusions(self, log: Any) -> Any:
        yield f"{len(log)} iterations, that was it"


def test_what_a_method_wants_to_say_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, told = tiny.run().model_copy(update={"method": Wary()}), Told()
    tiny.distill(run, tmp_path / "a", progress=told)
    assert told.warned == ["mind the gap", "4 iterations, that was it"]
    tiny.distill(run, tmp_path / "b")
    assert [(one.name, one.getMessage()) for one in caplog.records] == [("datastill", text) for text in told.warned]
    stopped(tmp_path / "c", run, after=3)
    tiny.distill(run, tmp_path / "c", progress=(rest := Told()))
    assert rest.warned[-1] == told.warned[-1]  # in view of the whole log, not of what came after the stop


def test_one_label_for_two_plugins() -> None:
    with pytest.raises(InputError, match="'x' is taken"):
        load(ds.Run, {"method": "distribution", "plugins": (tiny.Poison(label="x"), tiny.Poison(label="x"))})


def test_killed_again_and_again_the_result_is_the_same(tmp_path: Path) -> None:
    """kill -9 at moments spread over the run."""
    tiny.distill(tiny.run(method_options={"iterations": 40}), tmp_path / "whole")
    kills = 0
    for delay in (0.15, 0.31, 0.47, 0.05):
        child = Child(distill_slowly, tmp_path / "run")
        assert child.hear() == "go"
        time.sleep(delay)
        kills += child.kill() == -signal.SIGKILL
    assert kills == 4
    tiny.distill(tiny.run(method_options={"iterations": 40}), tmp_path / "run")
    for name in ("synthetic.safetensors", "card.json", "preview.png"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [line["iteration"] for line in checkpoint.read_log(tmp_path / "run")] == list(range(1, 41))


def test_refused_folder_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError):
        tiny.distill(tiny.run(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("line", [b"5\n", b"[1]\n", b'{"iteration": "x"}\n', b'{"iteration": null}\n', b"\xff\n"])
def test_damaged_log_never_stops_a_resume(line: bytes, tmp_path: Path) -> None:
    run = tiny.run()
    stopped(tmp_path, run)
    with (tmp_path / "log.jsonl").open("ab") as log:
        log.write(line)
    tiny.distill(run, tmp_path)
    assert [line["iteration"] for line in checkpoint.read_log(tmp_path)] == [1, 2, 3]


def test_what_killed_processes_leave_is_cleared_away(tmp_path: Path) -> None:
    run = tiny.run()
    stopped(tmp_path, run)
    state = (tmp_path / "state.pt").read_bytes()
    (tmp_path / ".datastill-x1").write_bytes(b"half")
    tiny.distill(run, tmp_path)
    (tmp_path / "state.pt").write_bytes(state)  # as if killed between the card and the removal
    tiny.distill(run, tmp_path)
    assert not (tmp_path / "state.pt").exists()
    assert not (tmp_path / ".datastill-x1").exists()


@pytest.mark.parametrize("name", ["method", "iteration", "loss", "time", "share.x"])
def test_names_of_the_log_are_no_labels(name: str) -> None:
    with pytest.raises(InputError, match="is taken"):
        load(ds.Run, {"method": "distribution", "plugins": (tiny.Poison(label=name),)})


def test_run_file_keeps_protocol_and_published_number(tmp_path: Path) -> None:
    about = {"protocol": {"kind": "dc", "augment": "none"}, "published": {"accuracy": 1.0, "source": "x"}}
    tiny.distill(tiny.run(), tmp_path, about=about)
    assert read_run(tmp_path) == tiny.run()
    recipe = read_recipe(str(tmp_path / "run.toml"))
    assert recipe.run == tiny.run()
    assert recipe.protocol == load(ds.Protocol, about["protocol"])
    assert recipe.published is not None


def test_a_run_file_of_another_run_is_refused(tmp_path: Path) -> None:
    for seed in range(2):
        tiny.distill(tiny.run(seed=seed), tmp_path / str(seed))
    (tmp_path / "1" / "run.toml").replace(tmp_path / "0" / "run.toml")
    with input_error(str(tmp_path / "0" / "run.toml"), "is that of another run than the set beside it", "restore it"):
        read_run(tmp_path / "0")


class Norms(ds.Plugin):
    """The norms of the matched gradients."""

    needs = frozenset({"gradient_norms"})

    def loss(self, step: ds.Step, task: ds.Task, rng: ds.RNG) -> torch.Tensor:
        assert step.gradient_norms is not None
        return step.gradient_norms.sum()


def test_plugins_that_need_what_the_method_provides(tmp_path: Path) -> None:
    for method in ("gradient", "trajectory"):
        run = tiny.run(method).model_copy(update={"plugins": (Norms(label="norms"),)})
        tiny.distill(run, tmp_path / method)
        assert all(line["norms"] > 0 for line in checkpoint.read_log(tmp_path / method))


def test_plugins_that_need_what_the_method_has_not(tmp_path: Path) -> None:
    run = tiny.run().model_copy(update={"plugins": (Norms(label="norms"),)})
    with pytest.raises(InputError, match=r"plug-in norms needs gradient_norms, which the steps of distribution do not "
                                         r"provide; methods that do: gradient, trajectory$"):
        tiny.distill(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    tiny.distill(run.model_copy(update={"plugins": (Norms(label="norms", weight=0.0),)}), tmp_path / "run")


def test_network_with_another_number_of_outputs(tmp_path: Path) -> None:
    class Narrow(ds.Architecture):
        def build(self, shape: Any, classes: int) -> Any:
            return load(ds.Architecture, "mlp").build(shape, 3)

    with pytest.raises(InputError, match=r"an output of shape \(3,\) for an image; expected \(10,\)"):
        tiny.distill(tiny.run(network=Narrow()), tmp_path / "run")


def test_the_card_says_how_it_was_computed_and_is_equal_for_equal_settings(tmp_path: Path) -> None:
    run = tiny.run()
    cards = []
    for name, one in (("a", run), ("b", run), ("c", run.model_copy(update={"deterministic": True}))):
        tiny.distill(one, tmp_path / name)
        cards.append(artifact.read_card(tmp_path / name))
    assert cards[0] == cards[1]
    assert cards[0]["computed"] == {"device": "cpu", "precision": "float32", "tf32": False, "deterministic": True,
                                    "versions": {"torch": torch.__version__}}
    assert (cards[2]["digest"], cards[2]["files"]) == (cards[0]["digest"], cards[0]["files"])  # it decides nothing on a CPU


def test_a_run_is_computed_as_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("datastill.running.computing", lambda *how: (asked.append(how), nullcontext())[1])
    tiny.distill(tiny.run(precision="tf32", deterministic=True), tmp_path)
    assert asked == [(torch.device("cpu"), "tf32", True)]
    with pytest.raises(InputError, match=r"precision: input should be 'float32', 'tf32' or 'bfloat16', got 'fp16'"):
        tiny.run(precision="fp16")


SHORT = toy_images(classes=3, per_class=6, shape=(1, 8, 8))


@pytest.mark.parametrize("method", ["random", "herding", "k_center", "dm", "datadam", "mtt"])
def test_a_class_of_few_images_is_used_several_times_on_request(tmp_path: Path, method: str) -> None:
    images = SHORT.subset(torch.cat([SHORT.of_class[0], SHORT.of_class[1], SHORT.of_class[2][:2]]))
    with input_error("ipc 5 is more than the 2 training images of class", "use ipc=2 or less, or with_replacement=true"):
        ds.distill(tiny.method(method), images, tmp_path / "refused", ipc=5, network=tiny.NETWORK, root=tmp_path)
    found = ds.distill(tiny.method(method), images, tmp_path / "run", ipc=5, network=tiny.NETWORK, with_replacement=True, root=tmp_path)
    assert torch.bincount(found.y.argmax(1)).tolist() == [5, 5, 5]
    start = artifact.read_tensors(tmp_path / "run" / "snapshots" / "000000.safetensors")["view"].flatten(1)
    assert [len(start[5 * c:5 * c + 5].unique(dim=0)) for c in range(3)] == [5, 5, 2]
    test = toy_images(classes=3, per_class=3, shape=(1, 8, 8), seed=1)
    scores = ds.score(tmp_path / "run", test, train=images, protocol="dc:epochs=1", trials=1, root=tmp_path)
    assert scores[tiny.NETWORK]["ipc"] == 5


def test_a_class_that_was_changed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = "import datastill as ds\n\nclass Mine(ds.methods.distribution.DistributionMatching):\n    extra: int = {}\n"
    (tmp_path / "mine_changed.py").write_text(text.format(0))
    importlib.invalidate_caches()
    mine = importlib.import_module("mine_changed")

    def run() -> list[str]:
        told = Told()
        tiny.distill(tiny.run(method=mine.Mine(iterations=1, batch_real=8)), tmp_path / "run", progress=told)
        return told.warned

    assert run() == run() == []
    (tmp_path / "mine_changed.py").write_text(text.format("0 + 0"))
    importlib.reload(mine)
    assert ["mine_changed:Mine was changed since the run" in one for one in run()] == [True]
    assert "code" in artifact.read_card(tmp_path / "run")


# --- runs with nothing to learn -----------------------------------------------------------------------------------------


def test_a_run_that_cannot_learn_is_refused(tmp_path: Path) -> None:
    of = tiny.run(method_options={"optim": {"images": {"lr": 0.0}}})
    with input_error("nothing is learned: every learning rate of distribution is 0", "(method.optim.images.lr is 0); set one"):
        tiny.distill(of, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("options", "says"), [
    ({"iterations": 0}, "method.iterations is 0: nothing is learned"),
    ({"optim": {"images": {"lr": 1e-30}}}, "nothing was learned: after 3 iterations the set is the one it started from"),
])
def test_a_run_that_learned_nothing_says_so(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    told = Told()
    tiny.distill(tiny.run(method_options=options), tmp_path / "run", progress=told)
    assert [says in text for text in told.warned] == [True]


@pytest.mark.parametrize("name", ["distribution", "coreset"])
def test_a_usual_run_says_nothing(name: str, tmp_path: Path) -> None:
    told = Told()
    tiny.distill(tiny.run(name), tmp_path / "run", progress=told)
    assert told.warned == []
