"""Trajectory matching beyond the golden step: what it draws, starts from, learns, and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import datastill as ds
import tiny
from datastill.checkpoint import read_log
from datastill.errors import RunError
from datastill.methods.trajectory import TrajectoryMatching
from datastill.nets import as_function
from datastill.run import check_run
from datastill.running import labeler
from datastill.teachers._snapshots import flat
from kit import Told, input_error

LEARN = {"inner_lr": {"lr": 1e-3}, "images": {"lr": 1.0}}


def run(**options: Any) -> ds.Run:
    fields = options.pop("run", {})
    return tiny.run("trajectory", ipc=2, method_options={"optim": LEARN, **options}, **fields)


def ready(of: ds.Run, root: Path | None = None) -> tuple[TrajectoryMatching, ds.Task, ds.SyntheticSet]:
    """Method, task and synthetic set of a run whose experts are made."""
    task = tiny.task(of) if root is None else of.task(tiny.splits().train, root=root)
    check_run(of, task.real, root=task.root)
    of.method.prepare(task)
    return of.method, task, of.method.start(task, of.ipc, ds.RNG(0))  # type: ignore[return-value]


def test_experts_are_of_the_runs_network_and_keep_what_can_be_used() -> None:
    method = TrajectoryMatching(min_start=3, max_start=6, expert_epochs=4)
    pool = method.experts(tiny.run().network)
    assert pool.networks == (tiny.run().network,)
    assert (pool.epochs, pool.kept) == (9, (3, 4, 5, 7, 8, 9))  # type: ignore[attr-defined]
    assert run().pools() == (run().method.experts(tiny.run().network),)  # type: ignore[attr-defined]


def test_a_trajectory_is_that_of_its_expert() -> None:
    method, task, _ = ready(run())
    pool = method.experts(task.network)
    for number in range(2):
        last = task.teachers(pool).teacher(0, number).network
        assert torch.equal(task.teachers(pool).trajectory(number).weights(2), flat(last))
        assert torch.equal(as_function(last)[0], flat(last))
    with input_error("has no epoch 7; stored epochs: 0, 1, 2"):
        task.teachers(pool).trajectory(0).weights(7)


def test_the_loss_is_the_normalized_distance_and_falls(tmp_path: Path) -> None:
    of = run(iterations=60, steps=5, lr_net=0.05, augment="none", max_start=1, optim={"images": {"lr": 30.0}, "inner_lr": {"lr": 1e-4}})
    tiny.distill(of, tmp_path / "run")
    lines = [line["method"] for line in read_log(tmp_path / "run")]
    assert sum(lines[-10:]) < sum(lines[:10])
    assert ds.load(tmp_path / "run").lr is not None


def test_start_epochs_lie_in_the_window() -> None:
    method, task, synthetic = ready(run(max_start=3, min_start=1, first_start=2, expand=100))
    def starts(iteration: int) -> set[float]:
        return {next(method.iterate(iteration, synthetic, task, ds.RNG(1, i))).log["start"] for i in range(25)}
    assert starts(0) == {1.0}
    assert starts(100) == starts(10_000) == {1.0, 2.0}


@pytest.mark.parametrize(("size", "wanted"), [(0, [20, 20, 20]), (8, [4, 8, 8]), (20, [20, 20, 20]), (10, [10, 10, 10])])
def test_batches_go_through_all_images_in_turn(size: int, wanted: list[int]) -> None:
    method = TrajectoryMatching(steps=3, batch_syn=size)
    batches = method._batches(20, ds.RNG(0), torch.device("cpu"))
    assert [len(rows) for rows in batches] == wanted
    if sum(wanted) == 20:
        assert sorted(torch.cat(batches).tolist()) == list(range(20))


def test_correct_images_are_recognized_and_labels_are_the_experts(tmp_path: Path) -> None:
    pool = {**tiny.CHEAP["pool"], "batch_size": 32, "snapshots": "every", "epochs": 6}  # type: ignore[dict-item]
    of = run(init="correct", labels="learned", pool=pool, optim={**LEARN, "labels": {"lr": 0.1, "momentum": 0.9}})
    method, task, synthetic = ready(of)
    experts = list(task.teachers(method.experts(task.network)))
    batch = synthetic.batch()
    assert synthetic.soft
    hit = experts[0].network(batch.x).argmax(1) == torch.arange(10).repeat_interleave(2)
    assert hit.float().mean() > 0.8
    step = next(method.iterate(0, synthetic, task, ds.RNG(3)))
    synthetic.labels.requires_grad_()
    step = next(method.iterate(0, synthetic, task, ds.RNG(3)))
    (gradient,) = torch.autograd.grad(step.loss, synthetic.labels)
    assert gradient.abs().sum() > 0


def test_soft_labels_of_a_finished_run_are_read_as_the_logits_they_are(tmp_path: Path) -> None:
    of = run(labels="learned", optim={**LEARN, "labels": {"lr": 1.0}})
    first, again = (tiny.distill(of, tmp_path / "run") for _ in range(2))
    assert (first.card["labels"], again.card["labels"]) == ("soft", "soft")
    assert torch.equal(first.tensors["logits"], again.tensors["logits"])
    assert torch.equal(first.y, first.tensors["logits"].softmax(1))


def test_labels_of_the_target_weights() -> None:
    method, task, synthetic = ready(run(labels="teacher"))
    assert next(method.iterate(0, synthetic, task, ds.RNG(3))).loss.isfinite()
    hard, *_ = ready(run())
    assert next(hard.iterate(0, synthetic, task, ds.RNG(3))).value != next(method.iterate(0, synthetic, task, ds.RNG(3))).value


def test_the_ways_to_the_gradient_agree_where_they_must() -> None:
    found = {}
    for how in ("exact", "full", "tesla"):
        method, task, synthetic = ready(run(gradient=how, steps=4))
        x = synthetic.images["pixels"].requires_grad_()
        step = next(method.iterate(0, synthetic, task, ds.RNG(3)))
        assert step.gradient_norms is not None
        found[how] = (step.value, torch.autograd.grad(step.loss, x)[0], step.gradient_norms.detach())
    assert found["exact"][0] == pytest.approx(found["full"][0], rel=1e-5)
    torch.testing.assert_close(found["exact"][1], found["full"][1], rtol=1e-3, atol=1e-5 * float(found["full"][1].abs().max()))
    torch.testing.assert_close(found["exact"][2], found["full"][2])
    assert not torch.allclose(found["tesla"][1], found["full"][1])
    assert step.norm_reduce == "mean"


def test_keeping_fewer_weights_changes_nothing_but_memory(tmp_path: Path) -> None:
    plain = tiny.distill(run(steps=7), tmp_path / "a").batch().x
    fewer = tiny.distill(run(steps=7, keep_every=3, offload=True), tmp_path / "b").batch().x
    assert torch.equal(plain, fewer)
    assert run(keep_every=3).digest(tiny.splits().train) == run().digest(tiny.splits().train)


def test_above_the_threshold_nothing_changes(tmp_path: Path) -> None:
    of = run(threshold=1e-6)
    start = of.method.start(tiny.task(of), 2, ds.RNG(0)("start")).batch().x
    assert torch.equal(tiny.distill(of, tmp_path / "run").batch().x, start)
    assert not torch.equal(tiny.distill(run(threshold=100.0), tmp_path / "other").batch().x, start)


def test_a_step_size_stays_positive(tmp_path: Path) -> None:
    of = run(iterations=5, lr_net=1e-5, max_start=1, optim={"images": {"lr": 0.0}, "inner_lr": {"lr": 0.1}})
    lr = tiny.distill(of, tmp_path / "run").lr
    assert lr is not None
    assert lr > 0


def test_inner_training_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    of = run(lr_net=1e20, steps=6, redraws=2)
    with pytest.raises(RunError, match=r"iteration 0: the inner training diverged on 3 consecutive segments.*lr_net"):
        tiny.distill(of, tmp_path / "run")


def test_another_segment_is_drawn_in_the_place_of_one_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    match, tried, told = TrajectoryMatching._match, list[int](), Told()

    def fails_at_first(self: TrajectoryMatching, iteration: int, *more: Any) -> ds.Step:
        step = match(self, iteration, *more)
        tried.append(iteration)
        return replace(step, loss=step.loss * float("nan")) if tried.count(iteration) == 1 else step

    monkeypatch.setattr(TrajectoryMatching, "_match", fails_at_first)
    tiny.distill(run(), tmp_path / "run", progress=told)
    assert [line["redrawn"] for line in read_log(tmp_path / "run")] == [1.0] * 3
    assert len([text for text in told.warned if "the inner training diverged on a segment" in text]) == 1


@pytest.mark.parametrize(("options", "says"), [
    ({"max_start": 0}, "max_start"),
    ({"min_start": 5, "max_start": 5}, "max_start 5: expected more than min_start 5"),
    ({"expand": 10, "first_start": 0}, "first_start 0: expected above min_start 0 and at most max_start 2"),
    ({"expand": 10, "first_start": 3}, "first_start 3: expected above"),
    ({"max_start": 50}, "segments end at epoch 50, experts are trained for 20 epochs; raise pool.epochs or lower max_start"),
    ({"expert_epochs": 30}, "segments end at epoch 31, experts are trained for 20"),
    ({"pool": {"kind": "experts", "snapshots": [0, 2, 5]}}, "pool.snapshots: epoch 1 is needed but never stored"),
    ({"batch_syn": 100}, "batch_syn 100 is more than the 20 synthetic images; use 0 for all"),
    ({"steps": 0}, "steps"),
    ({"gradient": "wrong"}, "gradient"),
    ({"pool": {"kind": "experts", "networks": ["mlp"]}}, "the experts are mlp, the run's network is convnet:width=4,depth=2"),
    ({"pool": {"kind": "experts", "data": {"source": "digits", "size": 16}}}, "the experts are from other data: their shape is (1, 16, 16)"),
    ({"pool": {"kind": "experts", "data": {"source": "digits", "validation": 0.1, "zca": True}}}, "their ZCA whitening is"),
    ({"run": {"network": "convnet:width=4,depth=2,norm=batch"}}, "its normalization has running statistics"),
    ({"pool": {"kind": "pretrained", "networks": ["mlp"], "files": ["x"]}}, "mlp"),
])
def test_what_cannot_be(options: dict[str, Any], says: str) -> None:
    if "epochs" not in options.get("pool", {}) and "pool" not in options:
        options = {**options, "pool": {**tiny.CHEAP["pool"], "epochs": 20}}  # type: ignore[dict-item]
    with input_error(says):
        of = run(**options)
        check_run(of, tiny.splits().train, root=tiny.ROOT)


def test_a_pool_without_trajectories_says_so(tmp_path: Path) -> None:
    net = tiny.run().network.build((1, 8, 8), 10)
    torch.save(net.state_dict(), tmp_path / "a.pt")
    of = run(pool={"kind": "pretrained", "networks": [tiny.NETWORK], "files": [str(tmp_path / "a.pt")]})
    with input_error("a pool of kind pretrained stores no trajectories; use experts"):
        check_run(of, tiny.splits().train, root=tiny.ROOT)


def test_random_images_are_labeled_by_the_experts_that_are_there(tmp_path: Path) -> None:
    soft = run(labels="learned", optim={**LEARN, "labels": {"lr": 1.0}})
    task = soft.task(tiny.splits().train, root=tmp_path)
    assert labeler(soft, task) is None  # none are made to score a set
    soft.method.prepare(task)
    found = labeler(soft, task)
    assert found is not None
    batch = task.random_real(2, ds.RNG(0))
    labels = found.label(batch)
    torch.testing.assert_close(labels.sum(1), torch.ones(20))
    assert torch.equal(labels.argmax(1), batch.y.argmax(1))
    other = labeler(run(labels="learned", pool={**tiny.CHEAP["pool"], "count": 1}), task)  # type: ignore[dict-item]
    assert other is not None
    assert other.name != found.name
    assert labeler(run(), task) is None


def test_a_damaged_run_toml_is_no_reason_to_compare_with_hard_labels(tmp_path: Path) -> None:
    tiny.distill(run(labels="learned", optim={**LEARN, "labels": {"lr": 1.0}}), tmp_path / "run")
    path = tmp_path / "run" / "run.toml"
    path.write_bytes(path.read_bytes().replace(b"seed = 0", b"seed = 1", 1))
    with input_error("run.toml", "checksum"):
        ds.Workspace(tmp_path, tmp_path).score(tmp_path / "run", trials=1)


def test_memory_by_gradient_grows_with_steps_only_for_the_full_graph() -> None:
    def needs(**options: Any) -> dict[str, int]:
        of = run(**options)
        return dict(of.method.memory(tiny.task(of), of.ipc))

    few, many = needs(steps=20), needs(steps=50)
    weights = 4 * sum(p.numel() for p in tiny.task(run()).fresh(ds.RNG(0)).parameters())
    assert many["gradient=exact"] - few["gradient=exact"] == 30 * weights
    assert many["gradient=full"] / few["gradient=full"] == pytest.approx(52 / 22, rel=1e-6)
    assert few["gradient=exact"] < few["gradient=full"] / 2
    assert needs(steps=50, keep_every=10)["gradient=exact"] < many["gradient=exact"]
    assert needs(steps=20, batch_syn=5)["gradient=full"] < few["gradient=full"]
    graphs = [needs(steps=20, keep_graphs=number)["gradient=exact"] for number in (0, 4, 20, 100)]
    assert graphs[0] < graphs[1] == few["gradient=exact"] < graphs[2] == graphs[3]
    assert needs(steps=6)["gradient=exact"] == needs(steps=6, keep_graphs=2)["gradient=exact"]


def test_no_graph_is_kept_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    of = run(steps=20)
    none = run(steps=20, keep_graphs=0).method.memory(tiny.task(of), of.ipc)
    monkeypatch.setattr("datastill.memory.total", lambda device=None: 10**6)
    assert of.method.memory(tiny.task(of), of.ipc) == none


def test_kept_graphs_change_only_rounding(tmp_path: Path) -> None:
    sets = [tiny.distill(run(steps=7, keep_graphs=number), tmp_path / str(number)).batch().x for number in (0, 3, 7)]
    assert run(keep_graphs=3).digest(tiny.splits().train) == run().digest(tiny.splits().train)
    for one in sets[1:]:
        torch.testing.assert_close(one, sets[0], rtol=1e-3, atol=1e-4)


def test_a_full_graph_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datastill.memory.total", lambda device=None: 10**6)
    of = run(gradient="full", steps=40)
    with input_error("method.gradient full: the graph of 40 steps takes about", "gradient=exact is the same with the memory of one"):
        check_run(of, tiny.splits().train, root=tiny.ROOT)
    check_run(run(steps=40), tiny.splits().train)


class Forgetful(ds.Architecture):
    """Draws inside: dropout."""

    def build(self, shape: Any, classes: int) -> ds.Network:
        return ds.Network(nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.5), nn.ReLU()), nn.Linear(12, classes), {})


class Tied(ds.Architecture):
    """Two layers with one weight."""

    def build(self, shape: Any, classes: int) -> ds.Network:
        first, second = nn.Linear(64, 64), nn.Linear(64, 64)
        second.weight = first.weight
        return ds.Network(nn.Sequential(nn.Flatten(), first, nn.ReLU(), second), nn.Linear(64, classes), {})


def test_dropout_is_drawn_again_as_it_was() -> None:
    found = {}
    for how in ("exact", "full"):
        method, task, synthetic = ready(run(gradient=how, steps=6, run={"network": Forgetful()}))
        x = synthetic.images["pixels"].requires_grad_()
        torch.manual_seed(len(found))  # nothing hangs on the global generator
        step = next(method.iterate(0, synthetic, task, ds.RNG(3)))
        found[how] = torch.autograd.grad(step.loss, x)[0]
    torch.testing.assert_close(found["exact"], found["full"], rtol=1e-3, atol=1e-5 * float(found["full"].abs().max()))


def test_weights_that_are_not_a_networks_own_are_refused() -> None:
    of = run(run={"network": Tied()})
    with input_error("is stored with the weights but is not a parameter of its own"):
        check_run(of, tiny.splits().train, root=tiny.ROOT)


@pytest.mark.parametrize(("options", "says"), [
    ({"optim": {**LEARN, "labels": {"lr": 1.0}}}, "has hard labels"),
    ({"optim": {**LEARN, "parameters": {"foo": {"lr": 1.0}}}}, "method.optim.parameters.foo: no such parameter")])
def test_what_cannot_be_learned_is_said_before_experts_are_made(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    of = run(**options)
    with input_error(says):
        ds.distill(of, tiny.splits().train, tmp_path / "run", root=tmp_path / "root")
    assert not (tmp_path / "root").exists()
    assert not (tmp_path / "run").exists()


def test_pools_are_asked_for_what_they_are_to_keep() -> None:
    network = tiny.run().network
    other = TrajectoryMatching(max_start=2, expert_epochs=2, pool={"kind": "supervised", "epochs": 5}).experts(network)  # type: ignore[arg-type]
    assert (other.epochs, other.kept) == (5, (0, 1, 2, 3, 5))  # type: ignore[attr-defined]
    late = TrajectoryMatching(max_start=2, expert_epochs=1, pool={"kind": "experts", "epoch": 10, "snapshots": []}).experts(network)  # type: ignore[arg-type]
    assert (late.epochs, late.kept) == (50, (0, 1, 2, 10, 50))  # type: ignore[attr-defined]
    for options in ({"init": "correct"}, {"labels": "learned"}):
        whole = TrajectoryMatching(max_start=2, expert_epochs=1, **options).experts(network)  # type: ignore[arg-type]
        assert whole.epochs == 50  # type: ignore[attr-defined]


def test_a_damaged_epoch_is_found_before_the_work_starts(tmp_path: Path) -> None:
    of = run()
    task = of.task(tiny.splits().train, root=tmp_path)
    of.method.prepare(task)
    path = next((tmp_path / "teachers").glob("*/snapshots.npy"))
    rows = np.load(path)
    rows[0, 3] += 1
    np.save(path, rows)
    with input_error("snapshots.npy", "damaged"):
        ds.distill(of, tiny.splits().train, tmp_path / "run", root=tmp_path)
    with input_error("snapshots.npy", "damaged"):
        of.method.prepare(of.task(tiny.splits().train, root=tmp_path))


def test_an_expert_that_does_not_move_is_named(tmp_path: Path) -> None:
    of = run(pool={**tiny.CHEAP["pool"], "lr": 1e-30})  # type: ignore[dict-item]
    with pytest.raises(RunError, match="the expert's weights do not change in the"):
        ds.distill(of, tiny.splits().train, tmp_path / "run", root=tmp_path)


def test_skipped_iterations_stand_in_the_log(tmp_path: Path) -> None:
    lines, told = list[dict[str, Any]](), Told()
    for threshold in (1e-9, 1e9):
        tiny.distill(run(threshold=threshold), tmp_path / str(threshold), progress=told)
        lines += read_log(tmp_path / str(threshold))
    assert [text.partition(":")[0] for text in told.warned if "nothing" in text] == ["3 of these iterations changed nothing"]
    assert [line["skipped"] for line in lines] == [1.0] * 3 + [0.0] * 3


SEVERAL = {"kind": "experts", "networks": [tiny.NETWORK, "convnet:width=6,depth=1"], "count": 2, "snapshots": [],
           "batch_size": 512, "epochs": 2}


def test_experts_of_several_architectures_take_turns_at_random() -> None:
    method, task, synthetic = ready(run(pool=SEVERAL))
    pool = method.experts(task.network)
    seen = set()
    for iteration in range(12):
        (step,) = method.iterate(iteration, synthetic, task, ds.RNG(0)("iteration", iteration))
        weights = flat(step.net)
        of = [(group, number) for group, number in pool.members() for epoch in range(3)
              if torch.equal(task.teachers(pool).trajectory(number, group).weights(epoch), weights)]
        seen.update(of)
        assert torch.isfinite(step.loss)
    assert seen == set(pool.members())


@pytest.mark.parametrize("options", [{"init": "correct", "labels": "learned"}, {"gradient": "tesla"}, {"gradient": "full"}])
def test_experts_of_several_architectures_with_each_variant(options: dict[str, Any], tmp_path: Path) -> None:
    of = run(pool=SEVERAL, **options)
    one, two = (tiny.distill(of, tmp_path / name).batch().x for name in "ab")
    assert torch.equal(one, two)
    assert max(of.method.memory(tiny.task(of), 2).values()) > 0
    assert set(read_log(tmp_path / "a")[-1]) >= {"method", "lr"}


def test_architectures_whose_normalization_cannot_be_matched_are_named() -> None:
    of = run(pool={**SEVERAL, "networks": [tiny.NETWORK, "convnet:width=4,depth=2,norm=batch"]})
    with input_error("norm=batch", "running statistics"):
        check_run(of, tiny.splits().train, root=tiny.ROOT)
