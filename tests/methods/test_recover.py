"""Recovery: the authors' loop, statistics of whole sets in parts, statistics of classes, augmentation, stages, bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import datastill as ds
import tiny
from datastill.data.domain import domain_of
from datastill.errors import InputError, Stopped
from datastill.functional.batchnorm import statistics, statistics_distance
from datastill.loop import Loop
from datastill.methods import recover
from datastill.methods._sides import seen_sides
from datastill.methods.recover import Recover
from datastill.run import check_run
from datastill.running import begin
from datastill.teachers import Teacher
from kit import Told, input_error, toy_images
from reference.golden import error
from reference.test_recover import CONFIG, GOLDEN, LOOP, MEAN, STD, network

PLAIN = {"crop": None, "flip": False, "roll": 0, "clamp": False}


def run_of(**options: Any) -> ds.Run:
    fields = {key: options.pop(key) for key in ("ipc", "parametrization", "data", "plugins", "network", "precision") if key in options}
    return tiny.run("recover", method_options=options, **fields)


def loop_of(run: ds.Run) -> Loop:
    task = tiny.task(run)
    run.method.prepare(task)
    return begin(run, task)


def test_the_loop_of_sre2l(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (3, CONFIG["im"], CONFIG["im"])
    real = replace(toy_images(CONFIG["C"], 1, shape), mean=tuple(MEAN.tolist()), std=tuple(STD.tolist()))
    method = Recover(iterations=CONFIG["iters"], weight=CONFIG["r_bn"], first=CONFIG["first_bn_multiplier"], crop=None, flip=False,
                     roll=CONFIG["jitter"])
    task = ds.Task(real, ds.find(ds.Architecture, "convnet")(width=CONFIG["width"], depth=CONFIG["depth"], norm="batch"))
    monkeypatch.setattr(ds.Task, "teachers", lambda self, pool: [Teacher("golden", 0, network(), domain_of(real), domain_of(real))])
    monkeypatch.setattr(Recover, "_first", lambda *_: GOLDEN["in.x"].double())
    monkeypatch.setattr(recover._Work, "_augmented", lambda self, x, rng: x.roll(tuple(LOOP["in.offset"][rng.path[2]].tolist()), (2, 3)))
    loop = Loop(method, {}, task, ds.RNG(0), 1)
    rates = []
    for _ in range(CONFIG["iters"]):
        loop.advance()
        assert loop.optimizer is not None
        rates.append(loop.optimizer.param_groups[0]["lr"])
    assert error(torch.tensor(rates), LOOP["out.lrs"]) < 1e-7
    assert error(loop.synthetic.decode(), LOOP["out.recovered"]) < 1e-6  # clamped with float32 bounds


@pytest.mark.parametrize("scale_free", [False, True])
def test_statistics_of_a_whole_set_do_not_depend_on_the_passes(scale_free: bool) -> None:
    found = []
    for size in (3, 4, 1000):
        loop = loop_of(run_of(together="set", batch_size=size, ipc=2, scale_free=scale_free, **PLAIN))
        loop.synthetic.double()
        teacher = loop.task.teachers(loop.method.pool)[0]  # type: ignore[attr-defined]
        teacher.network.double()
        step = next(loop.method.iterate(0, loop.synthetic, loop.task, ds.RNG(0)))
        (gradient,) = torch.autograd.grad(step.loss, step.batch.x)
        found.append((float(step.loss.detach()), gradient))
        teacher.network.float()
    direct = loop.synthetic.batch()
    teacher.network.double()
    logits, seen = teacher.watched(direct.x)
    wanted = torch.nn.functional.cross_entropy(logits, direct.y.argmax(1)) + 0.01 * statistics_distance(seen, 10.0, scale_free)
    found.append((float(wanted.detach()), torch.autograd.grad(wanted, direct.x)[0]))
    teacher.network.float()
    for value, gradient in found[:-1]:
        assert value == pytest.approx(found[-1][0], rel=1e-9)
        assert error(gradient, found[-1][1]) < 1e-9


def test_passes_hold_one_image_of_each_class_or_images_of_one() -> None:
    task = tiny.task(run_of())
    labels = torch.eye(10).repeat_interleave(3, 0)
    synthetic = task.synthetic(ds.Batch(torch.zeros(30, *task.real.shape), labels))
    mixed = Recover(batch_size=4)._passes(synthetic, task)
    assert [one.rows.tolist() for one in mixed[:3]] == [[0, 3, 6, 9], [12, 15, 18, 21], [24, 27]]
    assert [one.name for one in mixed[2:4]] == [(0, 2), (1, 0)]
    alone = Recover(together="class", batch_size=2)._passes(synthetic, task)
    assert [one.rows.tolist() for one in alone[:3]] == [[0, 1], [2], [3, 4]]
    later = Recover(batch_size=4)._passes(synthetic, replace(task, first=7))
    assert later[0].name == (7, 0)


def test_statistics_of_classes_are_those_of_their_images(tmp_path: Path) -> None:
    run = run_of()
    task = run.task(tiny.splits().train, root=tmp_path)
    run.method.prepare(task)
    teacher = task.teachers(run.method.pool)[0]  # type: ignore[attr-defined]
    found = teacher.class_statistics(task.real)
    for c in (0, 7):
        direct = statistics(teacher.network, task.real.batch(task.real.of_class[c]).x)
        for name, one in direct.items():
            assert error(found[name].mean[c], one.mean) < 1e-5
            assert error(found[name].var[c], one.var) < 1e-4
    stored = run.task(tiny.splits().train, root=tmp_path).teachers(run.method.pool)[0]  # type: ignore[attr-defined]
    assert list(Path(teacher.folder).glob("statistics-*.safetensors"))
    assert all(torch.equal(a, b) for name in found for a, b in zip(stored.class_statistics(task.real)[name], found[name], strict=True))
    damaged = next(Path(teacher.folder).glob("statistics-*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    again = run.task(tiny.splits().train, root=tmp_path).teachers(run.method.pool)[0]  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for name in found for a, b in zip(again.class_statistics(task.real)[name], found[name], strict=True))


def test_against_the_statistics_of_its_class() -> None:
    loop = loop_of(run_of(together="class", against="class", batch_size=2, ipc=2, **PLAIN))
    teacher = loop.task.teachers(loop.method.pool)[0]  # type: ignore[attr-defined]
    step = next(loop.method.iterate(0, loop.synthetic, loop.task, ds.RNG(0)))
    total, real = 0.0, teacher.class_statistics(loop.task.real)
    for c, x in enumerate(loop.synthetic.decode().detach().split(2)):
        logits, seen = teacher.watched(x)
        seen = {name: one._replace(running_mean=real[name].mean[c], running_var=real[name].var[c]) for name, one in seen.items()}
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor([c, c])) + 0.01 * statistics_distance(seen, 10.0))
    assert float(step.loss.detach()) == pytest.approx(total, rel=1e-5)


def test_everything_a_pass_sees_is_cropped_mirrored_and_shifted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny.task(run_of())
    x = ds.RNG(0).normal(1, 1, 8, 8).expand(3, 1, 8, 8)
    method = Recover(crop=0.5, roll=2)
    seen = [recover._Work(method, task, None, 0.5, ds.RNG(n), False)._augmented(x, ds.RNG(n)) for n in range(20)]  # type: ignore[arg-type]
    assert all(torch.equal(one[0], one[2]) for one in seen)
    assert len({tuple(one[0].flatten().tolist()) for one in seen}) > 15
    still = recover._Work(Recover(crop=None, flip=False, roll=0), task, None, None, ds.RNG(0), False)  # type: ignore[arg-type]
    assert torch.equal(still._augmented(x, ds.RNG(0)), x)
    rolls = {tuple(torch.nonzero(recover._Work(Recover(crop=None, flip=False, roll=2), task, None, None, ds.RNG(n), False)._augmented(
        torch.eye(1, 64).view(1, 1, 8, 8), ds.RNG(n))[0, 0])[0].tolist()) for n in range(60)}  # type: ignore[arg-type]
    assert rolls == {(a, b) for a in range(3) for b in range(3)}  # from 0 on, both ends included


def test_the_curriculum_goes_from_whole_images_to_small_crops() -> None:
    method = Recover(crop_from=1.0, iterations=100)
    shares = [method._share(iteration) for iteration in range(100)]
    assert shares[0] == 1.0
    assert shares[50] == pytest.approx(0.54)
    assert shares == sorted(shares, reverse=True)  # type: ignore[type-var]
    assert shares[99] == pytest.approx(0.08 + 0.92 * 0.5 * (1 + math.cos(0.99 * math.pi)))
    assert Recover(crop=None)._share(3) is None


def test_pixels_stay_within_the_range_of_images(tmp_path: Path) -> None:
    made = tiny.distill(run_of(optim={"images": {"lr": 5.0}}), tmp_path / "run")
    mean, std = torch.tensor(made.mean), torch.tensor(made.std)  # type: ignore[attr-defined]
    pixels = made.x * std + mean  # type: ignore[attr-defined]
    assert -1e-6 < float(pixels.min()) < 1e-6
    assert 1 - 1e-6 < float(pixels.max()) < 1 + 1e-6


def test_stages_mix_with_the_start_and_begin_anew() -> None:
    run = run_of(init="real", stages=2, iterations=4, residual=0.25, sides=[6, 8], clamp=False, pool=tiny.POOLING)
    loop = loop_of(run)
    start = loop.synthetic.decode().detach().clone()
    loop.advance()
    assert loop.synthetic.decode().shape[2:] == (6, 6)
    loop.advance()
    before, optimizer = loop.synthetic.decode().detach().clone(), loop.optimizer
    task, method = loop.task, loop.method
    renewed = method.renew(2, loop.synthetic, task, ds.RNG(0)("start"))
    wanted = 0.25 * torch.nn.functional.interpolate(before, (8, 8), mode="bilinear") + 0.75 * start
    assert renewed is not None
    torch.testing.assert_close(renewed.decode(), wanted)
    assert method.renew(1, loop.synthetic, task, ds.RNG(0)) is None
    loop.advance()
    assert loop.optimizer is not optimizer
    assert loop.synthetic.decode().shape[2:] == (8, 8)


def test_teachers_see_images_of_a_stage_in_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """As FADRM's do, not enlarged to the data's; a teacher of images twice as large sees them twice as large."""
    loop, seen = loop_of(run_of(init="real", stages=2, iterations=4, sides=[6, 8], pool=tiny.POOLING)), []
    original = Teacher.watched
    monkeypatch.setattr(Teacher, "watched", lambda self, x: (seen.append(tuple(x.shape[2:])), original(self, x))[1])
    for _ in range(4):
        loop.advance()
    assert [*dict.fromkeys(seen[:len(seen) // 2])] == [(6, 6)]
    assert [*dict.fromkeys(seen[len(seen) // 2:])] == [(8, 8)]
    teacher = loop.task.teachers(loop.method.pool)[0]  # type: ignore[attr-defined]
    other = replace(teacher, domain=replace(teacher.domain, shape=(1, 16, 16)))
    assert seen_sides((6, 6), loop.task, other) == (12, 12)
    assert other.see(torch.zeros(1, 1, 6, 6), 12, 12).shape == (1, 1, 12, 12)
    with input_error("does not take images of 6x6 pixels", "method.sides"):
        check_run(run_of(stages=2, sides=[6, 8]), tiny.splits().train, root=tiny.ROOT)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_in_stages_goes_on_where_it_stopped(stop: int, tmp_path: Path) -> None:
    run = run_of(init="real", stages=2, iterations=4, sides=[6, 8], pool=tiny.POOLING)
    whole = tiny.distill(run, tmp_path / "whole")
    with pytest.raises(Stopped):
        tiny.distill(run, tmp_path / "parts", progress=Told(stop_at=stop))
    parts = tiny.distill(run, tmp_path / "parts")
    assert torch.equal(parts.x, whole.x)  # type: ignore[attr-defined]


def test_teachers_take_turns() -> None:
    loop = loop_of(run_of(pool={**tiny.OWN["recover"]["pool"], "count": 2}))
    nets = [next(loop.method.iterate(n, loop.synthetic, loop.task, ds.RNG(n))).net for n in range(3)]
    assert nets[0] is nets[2] is not nets[1]


def test_the_log_tells_both_terms_and_their_gradients() -> None:
    loop = loop_of(run_of(**PLAIN))
    first, second = loop.advance(), loop.advance()
    assert first["loss"] == pytest.approx(3 * (first["cross_entropy"] + 0.01 * first["statistics"]), rel=1e-5)  # of three passes
    assert first["gradient.entropy"] > 0 < first["gradient.statistics"]
    assert "gradient.entropy" not in second


def test_a_teacher_that_knows_more_classes_is_asked_for_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    few = ds.Data(source="digits", classes=("3", "5")).load(Path()).train
    teacher = loop_of(run_of()).task.teachers(run_of().method.pool)[0]  # type: ignore[attr-defined]
    real = replace(few, classes=("three", "five"))
    knows = replace(teacher, domain=replace(teacher.domain, classes=names), home=domain_of(real))
    assert knows.outputs == [3, 5]
    monkeypatch.setattr(ds.Task, "teachers", lambda self, pool: [knows])
    task = ds.Task(real, ds.find(ds.Architecture, "convnet")(width=4, depth=2))
    loop = Loop(Recover(**PLAIN), {}, task, ds.RNG(0), 1)
    step = next(loop.method.iterate(0, loop.synthetic, task, ds.RNG(0)))
    logits: Tensor = knows.logits(step.batch.x.detach())
    assert logits.shape == (2, 10)
    assert step.log["cross_entropy"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, torch.tensor([3, 5]))), rel=1e-5)
    assert step.net(step.batch.x).shape == (2, 2)


@pytest.mark.parametrize(("options", "parts"), [
    ({"pool": {"kind": "classifier", "networks": [tiny.NETWORK]}}, ("does not provide statistics", "no batch normalization")),
    ({"roll": 10**9}, ("roll", "4096")),
    ({"sides": [4], "stages": 2}, ("sides", "2 stages", "got 1")),
    ({"sides": [100_000, 8], "stages": 2}, ("sides", "from 1 to 4096", "got 100000")),
    ({"optim": {"labels": {"lr": 1.0}}}, ("method.optim.labels.lr is 1", "recover has hard labels")),
    ({"optim": {"inner_lr": {"lr": 1.0}}}, ("method.optim.inner_lr.lr is 1", "learns no learning rate")),
    ({"pool": {"kind": "classifier", "networks": ["convnet:width=4,depth=2,norm=batch"], "data": {"source": "digits", "classes": ["0", "1", "2"]}}},
     ("have to know the run's classes", "pool classifier knows 3 (0, 1, 2)")),
    ({"sides": [4, 6], "stages": 2}, ("last stage", "6 pixels", "the data 8")),
    ({"stages": 5}, ("method.stages is 5 with method.iterations=3",)),
    ({"crop": None, "crop_from": 1.0}, ("crop_from", "crop=none")),
    ({"against": "class"}, ("together=class",)),
    ({"weight": -1.0}, ("weight", "greater than or equal to 0")),
    ({"crop": 1.5}, ("crop", "less than or equal to 1")),
    ({"optim": {"ema": 0.9}, "stages": 2}, ("optim.ema",)),
    ({"init": "patches", "patches": {"images": 3}, "ipc": 4}, ("take 4 of each class", "images is 3", "images=4")),
    ({"init": "patches", "patches": {"factor": 9}}, ("factor 9", "8 pixels")),
    ({"parametrization": "quarters:Quarters", "stages": 2}, ("quarters:Quarters", "method.stages=1")),
])
def test_bad_input(options: dict[str, Any], parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        run = run_of(**options)
        check_run(run, tiny.splits().train, root=tiny.ROOT)


def test_whitened_images_have_no_range(tmp_path: Path) -> None:
    images = ds.Data(source="digits", zca=True).load(tmp_path).train
    with input_error("whitened", "method.clamp=false", "data.zca=false"):
        check_run(run_of(data={"source": "digits", "zca": True}), images, root=tiny.ROOT)


def test_memory_grows_with_the_pass_and_with_the_set() -> None:
    def needs(ipc: int, **options: Any) -> int:
        run = run_of(ipc=ipc, **options)
        (found,) = run.method.memory(replace(tiny.task(run), dry_run=True), ipc).values()
        return found

    few, more = needs(1, batch_size=2), needs(1, batch_size=10)
    assert few < more < 6 * few
    assert needs(100, batch_size=2) - few == 4 * 4 * 99 * 10 * 64  # images, their gradient, two means
    assert needs(1, batch_size=100) == more  # a pass has one image of each class at most
    assert needs(5, batch_size=100, together="set") > more
    assert needs(1, batch_size=2, stages=2, sides=(32, 8)) > 6 * few


def test_without_weight_any_network_will_do(tmp_path: Path) -> None:
    pool = {"kind": "classifier", "networks": [tiny.NETWORK], "epochs": 1, "batch_size": 512}
    tiny.distill(run_of(weight=0.0, pool=pool), tmp_path / "run")
    with pytest.raises(InputError):
        check_run(run_of(pool=pool), tiny.splits().train, root=tiny.ROOT)
