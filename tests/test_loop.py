"""The loop: terms, weights, balance, updates, stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill.checkpoint import read_log
from datastill.core import Group, Optim, Plugin
from datastill.errors import InputError, RunError
from datastill.loop import Loop
from datastill.plugins.total_variation import TotalVariation
from kit import Counting, Told


def loop(optim: Optim | None = None, iterations: int = 4, **plugins: ds.Plugin) -> Loop:
    method = tiny.Pull(iterations=iterations, optim=optim or Optim(images=Group(lr=0.1, momentum=0.0)))
    return Loop(method, plugins, ds.Task(tiny.splits().train, ds.find(ds.Architecture, "mlp")()), ds.RNG(0), 1)


def pixels(of: Loop) -> torch.Tensor:
    return of.synthetic.images["pixels"].detach().clone()


def test_sgd_follows_the_gradient() -> None:
    one = loop()
    before = pixels(one)
    one.advance()
    torch.testing.assert_close(pixels(one), before * 0.9)


def test_momentum_is_kept_between_iterations() -> None:
    one = loop(Optim(images=Group(lr=0.1, momentum=0.5)))
    x, velocity = pixels(one), 0.0
    for _ in range(3):
        one.advance()
        velocity = 0.5 * velocity + x
        x = x - 0.1 * velocity
    torch.testing.assert_close(pixels(one), x)


def test_adam_takes_the_sign_at_first() -> None:
    one = loop(Optim(name="adam", images=Group(lr=0.01)))
    before = pixels(one)
    one.advance()
    torch.testing.assert_close(pixels(one), before - 0.01 * before.sign(), atol=1e-5, rtol=0)


def test_cosine_schedule_ends_at_zero() -> None:
    optim = Optim(images=Group(lr=0.1), schedule="cosine")
    assert [round(optim.factor(i, 4), 3) for i in range(5)] == [1.0, 0.854, 0.5, 0.146, 0.0]
    one = loop(Optim(images=Group(lr=0.1, momentum=0.0), schedule="cosine"), iterations=2)
    one.advance()
    before = pixels(one)
    one.advance()
    torch.testing.assert_close(pixels(one), before * (1 - 0.1 * 0.5))


def test_running_mean_is_the_result() -> None:
    one = loop(Optim(images=Group(lr=0.1, momentum=0.0), ema=0.75))
    start = pixels(one)
    one.advance()
    torch.testing.assert_close(one.result().images["pixels"], 0.75 * start + 0.25 * 0.9 * start)
    torch.testing.assert_close(pixels(one), 0.9 * start)


def test_long_gradients_are_shortened_to_the_largest_norm_allowed() -> None:
    def moved(clip: float | None) -> torch.Tensor:
        one = loop(Optim(images=Group(lr=0.1, momentum=0.0, clip=clip)))
        before = pixels(one).clone()
        one.advance()
        return pixels(one) - before

    free = moved(None)
    length = float(free.norm()) / 0.1
    torch.testing.assert_close(moved(length / 4), free / 4, rtol=1e-4, atol=1e-7)
    assert torch.equal(moved(2 * length), free)


def test_only_groups_with_a_step_size_are_learned() -> None:
    one = loop(Optim(images=Group(lr=0.0), labels=Group(lr=0.0)))
    before = pixels(one)
    one.advance()
    assert torch.equal(pixels(one), before)
    assert not one.learned


def test_fixed_weight_multiplies_the_term() -> None:
    line = loop(total_variation=TotalVariation(weight=3.0)).advance()
    assert line["loss"] == pytest.approx(line["method"] + 3 * line["total_variation"], rel=1e-6)


def test_gradient_balance_makes_weight_the_ratio_of_norms() -> None:
    one = loop(total_variation=TotalVariation(weight=0.25, balance="gradient"))
    line = one.advance()
    assert line["share.total_variation"] == pytest.approx(0.2, rel=1e-5)  # 0.25 / (1 + 0.25)
    assert line["share.method"] == pytest.approx(0.8, rel=1e-5)


def test_balance_at_the_start_keeps_the_weight_and_by_gradient_follows() -> None:
    """The images shrink, and with them the gradient of the method, but not that of a term that is their sum."""
    class Sum(Plugin):
        def loss(self, step: ds.Step, task: ds.Task, rng: ds.RNG) -> torch.Tensor:
            return step.batch.x.sum()

    weights: dict[str, list[float]] = {}
    for mode in ("start", "gradient"):
        one = loop(Optim(images=Group(lr=0.05, momentum=0.0)), iterations=60,
                   own=Sum(weight=0.01, balance=mode))  # type: ignore[arg-type]
        weights[mode] = []
        for _ in range(60):
            one.advance()
            weights[mode].append(one.balance.ratio("own"))
    assert weights["start"][:10] == weights["gradient"][:10]
    assert len({*weights["start"][9:]}) == 1
    assert weights["gradient"][59] < weights["gradient"][30] < weights["gradient"][9]


def test_shares_are_measured_every_hundred_iterations() -> None:
    one = loop(Optim(images=Group(lr=1e-4)), iterations=101, total_variation=TotalVariation())
    measured = [i for i in range(101) if "share.method" in one.advance()]
    assert measured == [0, 100]


@pytest.mark.parametrize(("schedule", "factors"), [("constant", [1, 1, 1]), ("linear", [0, 1, 1]), ("log", [0, 0.683, 1])])
def test_weight_schedules(schedule: Any, factors: list[float]) -> None:
    plugin = TotalVariation(schedule=schedule)
    assert [round(plugin.factor(i, 4), 3) for i in (0, 2, 4)] == factors


def test_learned_step_size_stays_positive() -> None:
    class Down(tiny.Pull):
        def start(self, task: ds.Task, ipc: int, rng: ds.RNG) -> ds.SyntheticSet:
            return task.synthetic(task.random_real(ipc, rng), lr=0.01)

        def iterate(self, iteration: int, synthetic: Any, task: ds.Task, rng: ds.RNG) -> Any:
            yield ds.Step(synthetic.lr * 10, synthetic.batch(), torch.nn.Identity())

    method = Down(optim=Optim(images=Group(lr=0.0), inner_lr=Group(lr=1.0, momentum=0.0)))
    told = Told()
    task = ds.Task(tiny.splits().train, ds.find(ds.Architecture, "mlp")(), progress=told)
    one = Loop(method, {}, task, ds.RNG(0), 1)
    one.advance()
    one.advance()
    assert ["is at its lower bound" in text for text in told.warned] == [True]
    assert one.synthetic.lr is not None
    assert float(one.synthetic.lr.detach()) == pytest.approx(1e-6)


def test_step_that_is_not_to_be_applied_is_logged_only() -> None:
    class Gate(tiny.Pull):
        def iterate(self, iteration: int, synthetic: Any, task: ds.Task, rng: ds.RNG) -> Any:
            batch = synthetic.batch()
            yield ds.Step(batch.x.square().sum(), batch, torch.nn.Identity(), value=7.0, apply=False, log={"window": 3.0})

    one = Loop(Gate(), {}, ds.Task(tiny.splits().train, ds.find(ds.Architecture, "mlp")()), ds.RNG(0), 1)
    before = pixels(one)
    line = one.advance()
    assert torch.equal(pixels(one), before)
    assert (line["method"], line["window"]) == (7.0, 3.0)


def test_bad_loss_names_its_term_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    run = tiny.run(method_options={"iterations": 5}).model_copy(update={"plugins": (tiny.Poison(label="poison"),)})
    with pytest.raises(RunError, match=r"iteration 2: the loss of poison is nan.*smaller plug-in weight"):
        tiny.distill(run, tmp_path / "run", every=0.0)
    assert [line["iteration"] for line in read_log(tmp_path / "run")] == [1, 2]
    with pytest.raises(RunError, match="iteration 2"):  # the checkpoint is there and good: it goes on from it, not from 0
        tiny.distill(run, tmp_path / "run", every=0.0)
    assert (tmp_path / "run" / "state.pt").exists()


def test_exploding_step_size_is_caught() -> None:
    one = loop(Optim(images=Group(lr=1e30, momentum=0.0)), iterations=9)
    with pytest.raises(RunError, match=r"method\.optim\.images\.lr is 1e\+30"):
        list(one.advance() for _ in range(9))


@pytest.mark.parametrize(("given", "message"), [
    (lambda task: task.random_real(1, ds.RNG(0)), "start returned Batch; expected task.synthetic"),
    (lambda task: task.synthetic(task.random_real(5, ds.RNG(0))), "returned 50 images; expected 1 per class, in class order"),
    (lambda task: task.synthetic(ds.Batch(*(t.flip(0) for t in task.random_real(1, ds.RNG(0))))), "in class order"),
    (lambda task: task.synthetic(ds.Batch(torch.zeros(10, 1, 4, 8), torch.eye(10))), r"shape \(1, 4, 8\); the dataset has \(1, 8, 8\)"),
])
def test_start_must_give_what_the_run_asks_for(given: Any, message: str) -> None:
    class Wrong(tiny.Pull):
        def start(self, task: ds.Task, ipc: int, rng: ds.RNG) -> Any:
            return given(task)

    with pytest.raises(InputError, match=message):
        Loop(Wrong(), {}, ds.Task(tiny.splits().train, ds.find(ds.Architecture, "mlp")()), ds.RNG(0), 1)


@pytest.mark.parametrize(("optim", "message"), [
    (Optim(labels=Group(lr=0.5)), "hard labels; set it to 0"), (Optim(inner_lr=Group(lr=0.5)), "learns no learning rate"),
    (Optim(parameters={"pixel": Group(lr=1.0)}), "did you mean 'pixels'")])
def test_settings_that_have_nothing_to_learn_are_refused(optim: Optim, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loop(optim)


@pytest.mark.parametrize(("term", "message"), [
    (lambda x: x.mean((1, 2, 3)), r"returned a tensor of shape \(10,\)"), (lambda x: 1.0, "returned float"),
    (lambda x: None, "returned NoneType")])
def test_plugin_must_return_a_scalar(term: Any, message: str) -> None:
    class Wrong(ds.Plugin):
        def loss(self, step: ds.Step, task: ds.Task, rng: ds.RNG) -> Any:
            return term(step.batch.x)

    with pytest.raises(InputError, match=f"plug-in wrong {message}; expected a scalar tensor"):
        loop(wrong=Wrong()).advance()


def test_iterate_must_yield() -> None:
    class Returns(tiny.Pull):
        def iterate(self, iteration: int, synthetic: Any, task: ds.Task, rng: ds.RNG) -> Any:
            return None

    one = Loop(Returns(), {}, ds.Task(tiny.splits().train, ds.find(ds.Architecture, "mlp")()), ds.RNG(0), 1)
    with pytest.raises(InputError, match="iterate returned NoneType; it must yield steps"):
        one.advance()


def test_what_networks_draw_themselves_is_the_same_in_every_run() -> None:
    class Drawing(ds.Plugin):
        def loss(self, step: ds.Step, task: ds.Task, rng: ds.RNG) -> torch.Tensor:
            return torch.nn.functional.dropout(step.batch.x, 0.5).square().sum()

    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        one = loop(drawing=Drawing())
        for _ in range(3):
            one.advance()
        found.append(pixels(one))
    assert torch.equal(*found)


def test_values_are_read_together_however_many_terms_there_are() -> None:
    """Each look at a value waits for the device."""
    def reads(terms: int, measured: bool) -> int:
        one = loop(**{f"t{n}": TotalVariation(label=f"t{n}") for n in range(terms)})
        one.iteration = int(not measured)
        with Counting() as counting:
            one.advance()
        return counting.seen["_local_scalar_dense"] + counting.seen["item"] + counting.seen["is_nonzero"]

    assert reads(0, True) == reads(5, True)
    assert reads(0, False) == reads(5, False) == 0


def test_a_bad_term_is_named_where_gradients_are_measured_too() -> None:
    with pytest.raises(RunError, match="the loss of poison is nan"):
        loop(poison=tiny.Poison(since=0)).advance()


def test_a_bad_gradient_names_what_it_is_of() -> None:
    class Steep(ds.Plugin):
        def loss(self, step: ds.Step, task: ds.Task, rng: ds.RNG) -> torch.Tensor:
            return (step.batch.x * 0).sqrt().sum()  # 0, with an infinite slope

    one = loop(steep=Steep())
    one.iteration = 1
    with pytest.raises(RunError, match=r"the gradient of method \+ steep with respect to images\.pixels is not finite"):
        one.advance()


# --- the last update ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optim", "says"), [
    (Optim(images=Group(lr=1e30)), "the mean magnitude of an image is"),
    (Optim(images=Group(lr=1e30), ema=0.9), "the mean magnitude of an image is"),
    (Optim(images=Group(lr=1e30), schedule="cosine"), "the mean magnitude of an image is"),
    (Optim(images=Group(lr=1e8)), "the mean magnitude of an image is"),
    (Optim(name="adam", images=Group(lr=1e10)), "the mean magnitude of an image is"),
])
def test_the_last_update_is_checked_like_every_other(optim: Optim, says: str, tmp_path: Path) -> None:
    run = ds.Run(method=tiny.Pull(iterations=1, optim=optim), network="mlp:width=4", ipc=1)  # type: ignore[arg-type]
    for _ in range(2):  # resumed too
        with pytest.raises(RunError, match=rf"stopped at iteration 1: after its update {says}.*method\.optim\.images\.lr is"):
            tiny.distill(run, tmp_path / "run")
    assert not (tmp_path / "run" / "card.json").exists()


class Taught(tiny.Pull):
    """Soft labels and a learning rate that fall by their step size."""

    @property
    def has_soft_labels(self) -> bool:
        return True

    @property
    def has_learned_lr(self) -> bool:
        return True

    def start(self, task: ds.Task, ipc: int, rng: ds.RNG) -> ds.SyntheticSet:
        return task.synthetic(task.random_real(ipc, rng), soft=True, lr=0.01)

    def iterate(self, iteration: int, synthetic: Any, task: ds.Task, rng: ds.RNG) -> Any:
        yield ds.Step(-synthetic.lr + synthetic.labels.sum() + synthetic.batch().x.sum(), synthetic.batch(), torch.nn.Identity())


@pytest.mark.parametrize(("group", "says"), [
    ("labels", r"the magnitude of a label's logit is 1e\+20.*method\.optim\.labels\.lr is 1e\+20"),
    ("inner_lr", r"the learned learning rate is 1e\+20; up to 1e\+03.*method\.optim\.inner_lr\.lr 1e\+20")])
def test_labels_and_learning_rate_are_checked_after_the_last_update(group: str, says: str, tmp_path: Path) -> None:
    optim = Optim(images=Group(), **{group: Group(lr=1e20)})  # type: ignore[arg-type]
    run = ds.Run(method=Taught(iterations=1, optim=optim), network="mlp:width=4", ipc=1)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=says):
        tiny.distill(run, tmp_path / "run")


def test_a_large_but_honest_step_is_no_ruin() -> None:
    one = loop(Optim(images=Group(lr=50.0, momentum=0.0)), iterations=1)
    one.advance()
    one.check()
