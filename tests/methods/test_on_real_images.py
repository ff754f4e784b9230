"""IDC and IDM: networks that are trained on real images while they are matched on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill import checkpoint
from datastill.core import Method
from datastill.data import Batch
from datastill.description import load
from datastill.errors import RunError
from datastill.loop import Loop
from datastill.methods._real_training import Draws, RealTraining
from datastill.recipes import read_recipe
from datastill.rng import RNG
from datastill.run import check_run
from datastill.states import read_state, write_state
from kit import Told, input_error

REAL = {"images": 60, "batch_size": 16, "augment": "idc_color_crop", "cutmix": 0.5}
QUEUE = {"images": 60, "batch_size": 16, "first": 2, "push": 2, "size": 4, "trained": 2}


def idc(**options: Any) -> ds.Run:
    return tiny.run("gradient", ipc=2, parametrization="tiles", method_options={
        "real": REAL, "outer": 3, "inner": 0, "augment": "idc_color_crop_cutout", "layers": "convolutions", "metric": "mse",
        "init": "real", **options})


def idm(**options: Any) -> ds.Run:
    return tiny.run("distribution", ipc=2, parametrization="tiles", method_options={
        "queue": QUEUE, "classification": 0.5, "iterations": 5, **options})


def weights_of_steps(run: ds.Run, synthetic: Any, task: ds.Task) -> list[torch.Tensor]:
    for parameter in synthetic.images.values():
        parameter.requires_grad_()
    return [torch.cat([p.detach().flatten().clone() for p in step.net.parameters()])
            for step in run.method.iterate(0, synthetic, task, RNG(1))]


def test_the_presets_are_the_papers() -> None:
    one, two = load(Method, "idc"), load(Method, "idm")  # type: ignore[type-abstract]
    assert (one.loops(10)[0], one.iterations, one.batch_real, one.batch_syn, one.metric) == (100, 2000, 64, 128, "mse")  # type: ignore[attr-defined]
    assert (one.real.images, one.real.batch_size, one.real.cutmix, one.clamp) == (2000, 64, 0.5, True)  # type: ignore[attr-defined]
    assert (two.queue.first, two.queue.push, two.queue.size, two.queue.trained) == (3, 30, 100, 2)  # type: ignore[attr-defined]
    assert two.queue.images == 10 * two.queue.batch_size  # type: ignore[attr-defined]


def test_the_network_is_trained_on_real_images_whatever_the_synthetic_ones_are() -> None:
    run = idc()
    task = tiny.task(run)
    first, second = (run.method.start(task, 8, RNG(seed)) for seed in (0, 1))
    assert not torch.equal(first.decode(), second.decode())
    one, two = weights_of_steps(run, first, task), weights_of_steps(run, second, task)
    assert len(one) == 3
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[1], one[2])


def test_it_learns_what_real_images_are() -> None:
    run = idc(outer=2, real={"images": 10_000, "batch_size": 32, "lr": 0.05, "before": 1})
    task = tiny.task(run)
    synthetic = run.method.start(task, 8, RNG(0))
    synthetic.images["tiles"].requires_grad_()
    *_, last = run.method.iterate(0, synthetic, task, RNG(1))
    real = task.random_real(20, RNG(2))
    assert float((last.net(real.x).argmax(1) == real.y.argmax(1)).float().mean()) > 0.8


def test_each_time_some_are_drawn_without_replacement_after_epochs_of_all() -> None:
    real = tiny.splits().train
    draws = Draws(real, load(RealTraining, {**REAL, "before": 1, "cutmix": 0.0, "augment": "none"}), alone=True)
    sizes = [sum(len(batch.x) for batch in draws.walk(epoch, RNG(0))) for epoch in range(3)]
    assert sizes == [len(real), 60, 60]
    some = [torch.cat([batch.x for batch in draws.walk(epoch, RNG(0))]) for epoch in (1, 2)]
    assert not torch.equal(*some)
    assert len(some[0].flatten(1).unique(dim=0)) > 55  # a few digits repeat one another


def test_so_many_synthetic_images_of_each_class_are_compared() -> None:
    run = idc(batch_syn=3)
    task = tiny.task(run)
    synthetic = run.method.start(task, 8, RNG(0))
    synthetic.images["tiles"].requires_grad_()
    batches = [step.batch for step in run.method.iterate(0, synthetic, task, RNG(1))]
    whole = synthetic.batch()
    for batch in batches:
        assert torch.bincount(batch.y.argmax(1)).tolist() == [3] * 10
        for x, y in zip(batch.x, batch.y, strict=True):
            assert any(torch.equal(x, other) for other in whole.x[whole.y.argmax(1) == y.argmax()])
    assert not torch.equal(batches[0].x, batches[1].x)


def test_pixels_stay_in_range(tmp_path: Path) -> None:
    options = {"outer": 1, "iterations": 4, "optim": {"images": {"lr": 1e4}}}
    low, high = ((bound - torch.tensor(tiny.splits().train.mean)) / torch.tensor(tiny.splits().train.std) for bound in (0, 1))
    for clamp in (True, False):
        loop = Loop((run := idc(clamp=clamp, **options)).method, {}, tiny.task(run), RNG(0), 2)
        for _ in range(3):
            loop.advance()
        reached = loop.synthetic.decode().detach()
        assert (reached.min() < low - 1) or (reached.max() > high + 1)
        next(iter(run.method.iterate(4, loop.synthetic, loop.task, RNG(0))))
        inside = loop.synthetic.images["tiles"].detach()
        assert bool(((inside >= low - 1e-5) & (inside <= high + 1e-5)).all()) == clamp


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    with input_error("inner 5", "method.real"):
        idc(inner=5)
    with input_error("classification 0.5", "method.queue"):
        idm(queue=None)
    whitened = ds.Data(source="digits", zca=True).load(tmp_path).train
    with input_error("whitened images have no range", "method.clamp=false"):
        check_run(idc(clamp=True), whitened, root=tiny.ROOT)


def test_the_queue_grows_and_its_oldest_leaves() -> None:
    run = idm()
    loop = Loop(run.method, {}, tiny.task(run), RNG(0), 2)
    sizes = []
    for _ in range(5):
        loop.advance()
        sizes.append(len(loop.task.kept["queue"]))
    assert sizes == [3, 3, 4, 4, 4]
    seen = [one["seen"] for one in loop.task.kept["queue"]]
    assert sum(seen) <= 5 * 2 * 60
    assert all(count % 60 == 0 for count in seen)
    assert 0 < sum(one["right"] for one in loop.task.kept["queue"]) < sum(seen)


def test_a_loop_begins_without_what_another_kept() -> None:
    run = idm()
    task = tiny.task(run)
    lines = []
    for _ in range(2):
        loop = Loop(run.method, {}, task, RNG(0), 2)
        lines.append([loop.advance() for _ in range(4)])
    assert lines[0] == lines[1]
    assert not task.kept


def test_the_distance_is_the_same_as_dms_and_accuracy_weighs_the_rest() -> None:
    run = idm(augment="none")
    task = tiny.task(run)
    synthetic = run.method.start(task, 8, RNG(0))
    synthetic.images["tiles"].requires_grad_()
    (first,) = run.method.iterate(0, synthetic, task, RNG(3))
    assert first.log["accuracy"] == 0.0
    assert float(first.loss.detach()) == first.log["distance"]
    for one in task.kept["queue"]:
        one["right"], one["seen"] = 3, 4
    (step,) = run.method.iterate(1, synthetic, task, RNG(4))
    assert not step.net.training
    batch: Batch = step.batch
    wrong = 10 * torch.nn.functional.cross_entropy(step.net(batch.x), batch.y)
    torch.testing.assert_close(step.loss, step.log["distance"] + 0.5 * 75 * wrong)


@pytest.mark.parametrize("run", [idc(real={**REAL, "lr": 1e12}), idm(queue={**QUEUE, "lr": 1e12})])
def test_networks_that_diverge_are_named_at_once(run: ds.Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"training diverged.*lower the lr it is trained with"):
        tiny.distill(run, tmp_path / "run")


def test_what_a_queue_takes_is_foretold() -> None:
    run = idm(queue={**QUEUE, "size": 50})
    parameters = sum(one.nbytes for one in tiny.task(run).fresh(RNG(0)).state_dict().values())
    assert run.method.memory(tiny.task(run), 2) == {"queue.size=50": 100 * parameters}
    assert not tiny.run("distribution").method.memory(tiny.task(run), 2)


def test_architectures_of_a_queue_are_drawn_once_for_each_network() -> None:
    run = idm(networks=[tiny.NETWORK, "convnet:width=4,depth=1"], queue={**QUEUE, "first": 8, "size": 9})
    loop = Loop(run.method, {}, tiny.task(run), RNG(0), 2)
    loop.advance()
    before = [one["architecture"] for one in loop.task.kept["queue"]]
    assert set(before) == {0, 1}
    loop.advance()
    assert [one["architecture"] for one in loop.task.kept["queue"]] == before


@pytest.mark.parametrize("network", [tiny.NETWORK, "convnet:width=4,depth=2,norm=batch"])
@pytest.mark.parametrize("make", [idc, idm])
def test_stop_and_resume_is_the_unbroken_run(make: Any, network: str, tmp_path: Path) -> None:
    run = make().model_copy(update={"network": load(ds.nets.Architecture, network)})
    tiny.distill(run, tmp_path / "whole")
    for _ in range(run.method.iterations):
        with pytest.raises(RunError, match="run the same command to continue"):
            tiny.distill(run, tmp_path / "broken", progress=Told(stop_at=0))
    tiny.distill(run, tmp_path / "broken")
    for name in ("synthetic.safetensors", "card.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
    assert checkpoint.read_log(tmp_path / "whole")[-1]["loss"] == checkpoint.read_log(tmp_path / "broken")[-1]["loss"]


def test_what_is_kept_survives_on_disk(tmp_path: Path) -> None:
    run = idm()
    loop = Loop(run.method, {}, tiny.task(run), RNG(0), 2)
    for _ in range(3):
        loop.advance()
    write_state(tmp_path / "state", loop.state())
    other = Loop(run.method, {}, tiny.task(run), RNG(0), 2)
    other.restore(read_state(tmp_path / "state", torch.device("cpu"), "run"))
    assert other.advance() == loop.advance()


@pytest.mark.parametrize(("data", "side", "std"), [("mnist", 28, 0.3081), ("fashion_mnist", 32, 0.3530)])
@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_learning_rates_of_idcs_recipes(data: str, side: int, std: float, ipc: int) -> None:
    """0.0001 x ipc / 10 x (28 / side)^2 for pixels from 0 to 1; the authors count Fashion-MNIST among images of 32 pixels."""
    lr = read_recipe(f"idc/{data}-ipc{ipc}").run.method.optim.images.lr
    assert lr == pytest.approx(1e-4 * ipc / 10 * (28 / side) ** 2 / std**2, rel=5e-3)
