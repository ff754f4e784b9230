"""Trained teachers: recipe, snapshots, sharing, resume inside a teacher, and what is said of damaged ones."""

from __future__ import annotations

import dataclasses
import gc
import json
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from children import Child, teach
from datastill.core import Step
from datastill.data import Batch, Data, Images
from datastill.description import load
from datastill.errors import InputError, Stopped
from datastill.executors import Executor, InProcess
from datastill.nets import Architecture
from datastill.place import Place
from datastill.rng import RNG
from datastill.run import check_run
from datastill.running import distill
from datastill.teachers import Context, Pool, Teachers
from datastill.teachers import _trained as module
from datastill.teachers._snapshots import flat
from datastill.teachers._trained import Trained
from datastill.teachers.classifier import Classifier
from datastill.teachers.experts import Experts
from datastill.teachers.supervised import Supervised
from datastill.train import Examples
from kit import Told, input_error

NET = tiny.NETWORK


def pool(**options: Any) -> Supervised:
    table = {"kind": "supervised", "networks": [NET], "count": 1, "epochs": 3, "batch_size": 512, **options}
    return load(Pool, table)  # type: ignore[type-abstract, return-value]


def context(root: Path, **options: Any) -> Context:
    return Context(tiny.splits().train, root, root, **options)


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and p.name != ".lock"}


def weights(pool: Pool, where: Context, group: int = 0, number: int = 0) -> torch.Tensor:
    return flat(pool.load(where, group, number).network).clone()


def test_the_recipes_of_the_papers() -> None:
    clom = Supervised()
    assert [clom.rates[e] for e in (0, 49, 50, 99, 100, 149)] == pytest.approx([0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4])
    assert (clom.momentum, clom.weight_decay, clom.batch_size, clom.augment) == (0.9, 5e-3, 256, "none")
    assert clom.kept == (0, 1, 2, 4, 6, 10, 20, 50, 100, 150)
    mtt = Experts()
    assert set(mtt.rates) == {0.01}
    assert (mtt.momentum, mtt.weight_decay, mtt.epochs, mtt.kept) == (0.0, 0.0, 50, tuple(range(51)))
    assert "color" in mtt.augment


def test_they_learn_and_say_how_well(tmp_path: Path) -> None:
    some, where = pool(networks=["convnet:width=8,depth=2"], epochs=8, batch_size=64), context(tmp_path)
    some.prepare(where)
    accuracy = some.accuracy(where, 0, 0)
    assert len(accuracy) == 9
    assert accuracy[-1] > accuracy[0] + 0.3
    teacher = some.load(where, 0, 0)
    assert teacher.facts["accuracy"] == accuracy[-1]
    assert not teacher.network.training
    assert not any(p.requires_grad for p in teacher.network.parameters())
    held = some.model_copy(update={"validation": 0.0})
    held.prepare(where)
    assert held.accuracy(where, 0, 0) == []


def test_every_epoch_kept_can_be_had(tmp_path: Path) -> None:
    where = context(tmp_path)
    stored = [weights(pool(epoch=e), where) for e in (0, 1, 2, 3)]
    assert len({tuple(w[:5].tolist()) for w in stored}) == 4
    assert torch.equal(stored[3], weights(pool(epoch="last"), where))
    assert len(list((tmp_path / "teachers").iterdir())) == 1  # one training gives them all
    untrained = tiny.run().network.build((1, 8, 8), 10)
    assert flat(untrained).shape == stored[0].shape


def test_teachers_are_shared_between_pools(tmp_path: Path) -> None:
    where = context(tmp_path)
    pool(count=2).prepare(where)
    before = content(tmp_path)
    both = pool(networks=[NET, "mlp"], count=3)
    assert both.missing(where) == 4
    assert pool(seed=1).missing(where) == 0
    assert pool(lr=0.02).missing(where) == 1
    assert pool(data=Data(source="digits", validation=0.1)).missing(where) == 0  # the very same images by another way
    assert torch.equal(weights(pool(seed=1), where), weights(both, where, 0, 1))
    assert before.items() <= content(tmp_path).items()


def test_other_data_are_another_digest(tmp_path: Path) -> None:
    plain = tiny.run(plugins={"cclom": {"pool": {"kind": "supervised"}}})
    other = tiny.run(plugins={"cclom": {"pool": {"kind": "supervised", "data": {"source": "digits", "size": 16}}}})
    real = tiny.splits().train
    assert plain.digest(real) != other.digest(real)
    assert len(other.pools()[0].identity(tmp_path)) == 1
    assert tiny.run(plugins={"cclom": {"weight": 0.0}}).pools() == ()


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_stop_and_resume_is_the_unbroken_training(every: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = pool(epochs=5, augment="flip_crop", networks=["convnet:width=4,depth=2,norm=batch"])
    some.prepare(context(tmp_path / "whole"))
    monkeypatch.setattr("datastill.teachers._lesson.EVERY", every)

    for epoch in (1, 2, 4):
        told = Told(stop_at=epoch)
        with pytest.raises(Stopped, match="stopped; run the same command to continue"):
            some.prepare(context(tmp_path / "broken", progress=told))
        assert told.steps[-1] == (epoch, 5)
    some.prepare(context(tmp_path / "broken"))
    assert content(tmp_path / "whole") == content(tmp_path / "broken")


def test_killed_inside_a_teacher(tmp_path: Path) -> None:
    for at in (3, 15):  # in the first teacher, and in the second
        child = Child(teach, tmp_path / "broken")
        while child.hear() < at:
            pass
        assert child.kill() == -signal.SIGKILL
    assert any((tmp_path / "broken").rglob("state.pt"))
    for root in ("broken", "whole"):
        child = Child(teach, tmp_path / root)
        while child.hear() is not None:
            pass
        assert child.wait() == 0
    assert content(tmp_path / "whole") == content(tmp_path / "broken")


@pytest.mark.usefixtures("quick_processes")
def test_several_at_once_are_the_same(tmp_path: Path) -> None:
    some, data = pool(count=3), Data(source="digits", validation=0.1)
    for name, jobs in (("one", 1), ("two", 2)):
        place = Place(tmp_path / name, tmp_path, "cpu")
        place.make_teachers([(some, data)], place.executor(jobs))
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_those_of_several_pools_are_trained_at_once(tmp_path: Path) -> None:
    given = []

    class Counting(Executor):
        def map(self, work: Any, items: Any, progress: Any = None) -> dict[str, Any]:
            given.append(len(items))
            return InProcess(torch.device("cpu")).map(work, items)

    data, place = Data(source="digits", validation=0.1), Place(tmp_path, tmp_path, "cpu")
    asked = [(pool(seed=seed, count=count), data) for seed, count in ((3, 1), (3, 2), (9, 1))]  # the first is in the second
    place.make_teachers(asked, Counting())
    place.make_teachers(asked, Counting())
    assert given == [3]
    assert not any(one.missing(place.context(data)) for one, _ in asked)


def test_one_that_is_being_trained_is_waited_for(tmp_path: Path) -> None:
    from datastill.store import locked
    some, where = pool(), context(tmp_path)
    folder = some._folder(where, 0, 0)
    folder.mkdir(parents=True)
    code = f"""
import time
from pathlib import Path
from datastill.store import locked
with locked(Path({str(folder)!r})):
    print("held", flush=True)
    time.sleep(1.5)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(InputError, match="in use"), locked(folder):
        pass
    began = time.monotonic()
    some.prepare(where)
    assert time.monotonic() - began > 0.5
    assert some.missing(where) == 0
    process.wait()


def teacher_folder(root: Path) -> Path:
    (folder,) = (root / "teachers").iterdir()
    return folder


def test_a_damaged_file_is_named_and_retrained_only_on_request(tmp_path: Path) -> None:
    some, where = pool(), context(tmp_path)
    some.prepare(where)
    good = content(tmp_path)
    path = teacher_folder(tmp_path) / "snapshots.npy"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with input_error(str(path), "damaged", "row 3", "--retrain"):
        some.prepare(where)
    assert path.read_bytes() == damaged
    pool(epoch=1).load(where, 0, 0)  # the other epochs are whole
    some.mend(where)
    some.prepare(where)
    assert content(tmp_path) == good
    some.mend(where)  # nothing to mend: nothing is touched
    assert content(tmp_path) == good


@pytest.mark.parametrize("name", ["card.json", "snapshots.npy"])
def test_torn_and_edited_files(name: str, tmp_path: Path) -> None:
    some, where = pool(), context(tmp_path)
    some.prepare(where)
    path = teacher_folder(tmp_path) / name
    path.write_bytes(path.read_bytes()[:-200])
    with input_error(name, "damaged", "--retrain"):
        some.prepare(where)
    some.mend(where)
    some.prepare(where)
    assert some.missing(where) == 0


def test_an_edited_card(tmp_path: Path) -> None:
    some, where = pool(), context(tmp_path)
    some.prepare(where)
    path = teacher_folder(tmp_path) / "card.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "accuracy": [1.0]}))
    with input_error("card.json", "edited"):
        some.load(where, 0, 0)


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    some = pool()

    with pytest.raises(Stopped):
        some.prepare(context(tmp_path, progress=Told(stop_at=0)))
    path = teacher_folder(tmp_path) / "state.pt"
    path.write_bytes(path.read_bytes()[:-3])
    with input_error("state.pt", "damaged", "start the teacher over"):
        some.prepare(context(tmp_path))
    some.mend(context(tmp_path))
    some.prepare(context(tmp_path))


@pytest.mark.parametrize("harm", [lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
                                  lambda content: content[:200], lambda content: None])
def test_damaged_rows_of_an_unfinished_teacher_are_found_before_it_goes_on(harm: Any, tmp_path: Path) -> None:
    some = pool()
    with pytest.raises(Stopped):
        some.prepare(context(tmp_path, progress=Told(stop_at=1)))
    path = teacher_folder(tmp_path) / "snapshots.npy"
    left = harm(path.read_bytes())
    path.unlink() if left is None else path.write_bytes(left)
    with input_error("snapshots.npy", "damaged", "--retrain"):
        some.prepare(context(tmp_path))
    some.mend(context(tmp_path))
    some.prepare(context(tmp_path))
    some.prepare(context(tmp_path / "whole"))
    assert content(tmp_path / "whole") == {name: found for name, found in content(tmp_path).items() if "whole" not in name}


def test_a_checkpoint_left_beside_a_finished_teacher_is_removed(tmp_path: Path) -> None:
    some = pool()
    some.prepare(context(tmp_path))
    left = teacher_folder(tmp_path) / "state.pt"
    left.write_bytes(b"left by a kill between the card and its removal")
    some.prepare(context(tmp_path))
    assert not left.exists()


@pytest.mark.parametrize(("options", "parts"), [
    ({"epoch": 7, "epochs": 20}, ["epoch 7", "never stored", "0, 1, 2, 4, 6, 10, 20"]),
    ({"epoch": 21, "epochs": 20}, ["epoch 21", "trained for 20 epochs"]),
    ({"snapshots": [0, 30], "epochs": 20}, ["0 to 20", "30"]),
    ({"count": 0}, ["count"]),
    ({"networks": ["convnt"]}, ["networks[0]", "convnet"]),
    ({"lr": 0}, ["lr"]),
])
def test_bad_pools(options: dict[str, Any], parts: list[str]) -> None:
    with input_error(*parts):
        pool(**options)


class Plain(Architecture):
    """A network that has no features."""

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape[0] * shape[1] * shape[2], classes))


def test_a_network_without_features() -> None:
    with input_error("Plain", "without embed(x)"):
        pool().model_copy(update={"networks": (Plain(),)}).check(context(Path()))


def test_a_network_that_does_not_fit(tmp_path: Path) -> None:
    with input_error("does not fit"):
        pool(networks=["convnet:depth=6"]).check(context(tmp_path))


def test_draws_take_networks_first(tmp_path: Path) -> None:
    many = Teachers(pool(networks=[NET, "mlp:width=8"], count=3), context(tmp_path, dry_run=True))
    drawn = [many.draw(RNG("draw", i)) for i in range(200)]
    share = np.mean([one.group == 0 for one in drawn])
    assert 0.4 < share < 0.6
    assert many.draw(RNG("draw", 5)) is many.draw(RNG("draw", 5))
    assert len(many) == 6
    assert not (tmp_path / "teachers").exists()


def test_directions_are_the_features_of_real_images(tmp_path: Path) -> None:
    some, where = pool(), context(tmp_path)
    teacher, real = some.load(where, 0, 0), tiny.splits().train
    found = teacher.directions(real)
    rows = torch.tensor([0, 5, 700])
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(teacher.embed(real.batch(rows).x), dim=1)
    torch.testing.assert_close(torch.from_numpy(np.array(found[rows.numpy()])), wanted)
    (path,) = teacher_folder(tmp_path).glob("features-*.npy")
    before = path.stat().st_mtime_ns
    assert np.array_equal(some.load(where, 0, 0).directions(real), found)
    assert path.stat().st_mtime_ns == before  # read, not made again
    assert not np.array_equal(pool(epoch=0).load(where, 0, 0).directions(real), found)


def test_another_domain(tmp_path: Path) -> None:
    """A teacher of larger color images looks at the run's digits."""
    other = Data(source="digits", size=12, channels=3)
    teacher = pool(data=other).load(context(tmp_path), 0, 0)
    x = tiny.splits().train.batch(torch.arange(4)).x.requires_grad_()
    assert teacher.see(x).shape == (4, 3, 12, 12)
    assert teacher.logits(x).shape == (4, 10)
    (gradient,) = torch.autograd.grad(teacher.logits(x).sum(), x)
    assert gradient.abs().sum() > 0


def test_a_full_disk_is_said_and_nothing_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datastill.errors import RunError
    some = pool()

    def full(*anything: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datastill.teachers._lesson.SnapshotWriter.write", full)
    with pytest.raises(RunError, match=r"the disk is full.*free some space"):
        some.prepare(context(tmp_path))
    monkeypatch.undo()
    some.prepare(context(tmp_path))


def test_another_teachers_files_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    where, two = context(tmp_path), pool(count=2)
    two.prepare(where)
    first, second = (two._folder(where, 0, number) for number in range(2))
    for name in ("snapshots.npy", "card.json"):
        (first / name).write_bytes((second / name).read_bytes())
    for act in (two.check, two.prepare):
        with input_error(first.name, "contains another teacher", "--retrain"):
            act(where)
    two.mend(where)
    two.prepare(where)


def test_mending_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    where, one = context(tmp_path), pool()
    one.prepare(where)
    folder = one._folder(where, 0, 0)
    (folder / "notes").mkdir()
    (folder / "snapshots.npy").write_bytes(b"")
    one.mend(where)
    assert (folder / "notes").exists()
    one.prepare(where)


class Rotations:
    """Every image four times, turned by 0, 90, 180 and 270 degrees, its label the turn."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: torch.Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
        x = self.images.batch(rows).x
        turned = torch.cat([x.rot90(turn, (2, 3)) for turn in range(4)])
        return Batch(turned, torch.eye(4, device=x.device).repeat_interleave(len(x), 0))


class RotNet(Trained):
    """Networks that tell by how much an image was turned, and never see a class (Gidaris et al. 2018)."""

    def outputs(self, images: Images) -> tuple[str, ...]:
        return ("0", "90", "180", "270")

    def examples(self, images: Images) -> Examples:
        return Rotations(images)

    def measure(self, network: torch.nn.Module, held: Images) -> float:
        x, y = Rotations(held).batch(torch.arange(len(held)))
        with torch.no_grad():
            return float((network.eval()(x).argmax(1) == y.argmax(1)).double().mean())


def rotnet(**options: Any) -> RotNet:
    network = load(Architecture, "convnet:width=8,depth=2")  # type: ignore[type-abstract]
    return RotNet(**{"networks": (network,), "count": 2, "epochs": 5, "batch_size": 64, **options})


def test_a_pool_of_your_own_that_is_not_told_classes(tmp_path: Path) -> None:
    some, train = rotnet(), tiny.splits().train
    teachers = some.fit(train, root=tmp_path)
    measured = some.accuracy(context(tmp_path), 0, 0)
    assert measured[0] < 0.45
    assert measured[-1] > 0.6
    assert teachers[0].domain.classes == ("0", "90", "180", "270")
    assert teachers[0].facts["accuracy"] == measured[-1]
    shuffled = dataclasses.replace(train, targets=train.targets.roll(1))
    blind = rotnet(count=1, epochs=1, validation=0.0)
    assert torch.equal(weights(blind, context(tmp_path)), weights(blind, Context(shuffled, tmp_path, tmp_path)))
    assert blind.alone(0, 0).model_copy(update={"seed": 9}).seconds(context(tmp_path)) > 0
    clom = tiny.run(plugins=(tiny.plugin("clom", pool=some),))
    with input_error("knows 4 (0, 90, 180, ...), the run has 10", "use cclom"):
        clom.plugins[0].check(tiny.task(clom), 1)


def test_its_features_guide_a_run(tmp_path: Path) -> None:
    """Features learned without labels: noise that follows them comes nearer to the real images of its class."""
    run = tiny.run(ipc=2, plugins=(tiny.plugin("cclom", pool=rotnet(), weight=10.0, draw="mean", batch_real=256),))
    task = run.task(tiny.splits().train, root=tmp_path)
    check_run(run, tiny.splits().train, root=tmp_path)
    plugin = run.plugins[0]
    plugin.prepare(task)
    x, y = RNG("x").normal(20, *task.real.shape), torch.eye(10).repeat_interleave(2, 0)
    shares = []
    for i in range(20):
        given = Step(x.sum() * 0, Batch(x.clone().requires_grad_(), y), torch.nn.Identity())
        loss = plugin.loss(given, task, RNG(0, i))
        (gradient,) = torch.autograd.grad(loss, given.batch.x)
        x = x - gradient / gradient.norm()
        shares.append(float(loss.detach()))
    assert shares[0] == pytest.approx(0.1, abs=0.02)
    assert shares[-1] < 0.8 * shares[0]
    distill(run, tiny.splits().train, tmp_path / "run", root=tmp_path)


class Two:
    """Trains a network and a head beside it that is thrown away, in steps of its own."""

    def __init__(self, network: torch.nn.Module, images: Images, rng: RNG) -> None:
        self.network, self.images, self.rng, self.epoch = network, images, rng, 0
        x = images.batch(torch.arange(1)).x
        self.head = torch.nn.Linear(network.embed(x).shape[1], 1)  # type: ignore[operator]
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.zero_()
        self.updates = torch.optim.SGD([*network.parameters(), *self.head.parameters()], 0.1, momentum=0.9)

    def advance(self) -> float:
        x = self.images.batch(self.rng("order", self.epoch).permutation(len(self.images))[:64]).x
        loss = (self.head(self.network.embed(x))[:, 0] - x.mean((1, 2, 3))).square().mean()  # type: ignore[operator]
        self.updates.zero_grad()
        loss.backward()
        self.updates.step()
        self.epoch += 1
        return float(loss.detach())

    def check(self) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, **{name: getattr(self, name).state_dict() for name in ("network", "head", "updates")}}

    def restore(self, state: Any) -> None:
        self.epoch = state["epoch"]
        for name in ("network", "head", "updates"):
            getattr(self, name).load_state_dict(state[name])


class Headed(Trained):
    """Networks for their features alone."""

    def outputs(self, images: Images) -> tuple[str, ...]:
        return ()

    def training(self, network: torch.nn.Module, images: Images, rng: RNG) -> Two:
        return Two(network, images, rng)

    def measure(self, network: torch.nn.Module, held: Images) -> float:
        return float(network.embed(held.batch(torch.arange(4)).x).std().detach())  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_training_of_your_own_stops_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load(Architecture, NET)  # type: ignore[type-abstract]
    some = Headed(networks=(network,), count=1, epochs=4)
    whole = some.fit(tiny.splits().train, root=tmp_path / "whole")
    assert whole[0].gives == {"features", "maps"}
    with input_error("does not provide logits; it provides features, maps"):
        whole[0].logits(tiny.splits().train.batch(torch.arange(1)).x)
    monkeypatch.setattr("datastill.teachers._lesson.EVERY", 0.0)
    with pytest.raises(Stopped):
        some.fit(tiny.splits().train, root=tmp_path / "broken", progress=Told(stop_at=2))
    some.fit(tiny.splits().train, root=tmp_path / "broken")
    assert content(tmp_path / "whole") == content(tmp_path / "broken")


def test_what_cards_say_is_read_without_the_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some, where = pool(networks=[NET, "mlp:width=4"], count=2, epochs=1), context(tmp_path)
    some.prepare(where)
    loaded = [dict(some.load(where, group, number).facts) for group in range(2) for number in range(2)]
    assert Pool.facts(some, where) == loaded
    monkeypatch.setattr("datastill.teachers._trained.fresh", None)
    assert some.facts(where) == loaded


def test_another_set_stays_in_host_memory_until_it_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = torch.device("meta")
    some, where = pool(data={"source": "digits", "zca": True}), context(tmp_path)
    some.prepare(where)
    monkeypatch.setattr(Images, "to", lambda self, device: pytest.fail("copied"))
    elsewhere = replace(where, real=replace(where.real, device=there))
    whitening = some.domain(elsewhere).whitening
    assert whitening is not None
    assert whitening.mean.device == there
    assert some.missing(elsewhere) == 0
    some.check(elsewhere)
    assert some.facts(elsewhere)[0]["trained on"] == some.identity(tmp_path)[0]


def test_the_time_of_an_epoch_is_measured_once_and_keeps_no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(module, "_SECONDS", {})
    monkeypatch.setattr(module, "_measured", lambda *given: (calls.append(1), 2.0)[1])
    images = tiny.splits().train.subset(torch.arange(100))
    alive = weakref.ref(images)
    for _ in range(2):  # the same content in another object
        assert pool(count=3).seconds(Context(images, tmp_path, tmp_path)) == 18.0
        images = tiny.splits().train.subset(torch.arange(100))
    assert calls == [1]
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("augment", ["standard", "shift", "crop", "none"])
def test_how_classifiers_see_their_images(augment: str) -> None:
    images = tiny.splits().train
    examples = Classifier(augment=augment).examples(images)
    rows = torch.tensor([3, 3, 8])
    plain, first, again = (examples.batch(rows, 0, rng) for rng in (None, RNG("a"), RNG("a")))
    assert torch.equal(plain.x, images.batch(rows).x)
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.y, images.batch(rows).y)
    assert first.x.shape == plain.x.shape
    assert torch.equal(first.x, plain.x) == (augment == "none")
    assert torch.equal(first.x[0], first.x[1]) == (augment == "none")
