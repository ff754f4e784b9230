"""Labels by teachers: what students are shown, labels asked and stored, stores cut short or of other sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import datastill as ds
import tiny
from datastill import label_store
from datastill.errors import RunError, Stopped
from datastill.functional.views import shown
from datastill.label_store import Labels, Stored, forecast, make_labels, name_of
from datastill.relabel import Online, Relabel, Schedule, Views, asked, label
from datastill.store import write_record
from datastill.teachers import Teachers
from datastill.train import Fixed
from kit import Told, input_error

POOL = {**tiny.OWN["recover"]["pool"]}
VIEWS = Views(area=0.3)


@pytest.fixture(scope="module")
def teachers() -> Teachers:
    task = tiny.task(tiny.run("recover"))
    return task.teachers(tiny.run("recover").method.pool)  # type: ignore[attr-defined]


def images(count: int = 22) -> Fixed:
    real = tiny.splits().train
    return Fixed(real.batch(torch.arange(count)))


def schedule(views: Views = VIEWS, batch_size: int = 7, epochs: int = 3, **options: Any) -> Schedule:
    return Schedule(views, Relabel(store=True, **options), batch_size, epochs)


def stored(folder: Path, teachers: Teachers, how: Schedule, examples: Any = None, checksum: str = "set", **more: Any) -> Labels:
    return make_labels(folder, checksum, examples or images(), how, teachers.pool, teachers, ds.RNG(0)("labels"), **more)


@pytest.mark.parametrize("views", [VIEWS, Views(window="shift", mix="mixup", beta=0.8), Views(strips=2, area=0.5, flip=False),
                                   Views(window="none", flip=False, mix="none")])
@pytest.mark.parametrize("teacher", ["eval", "batch"])
def test_what_is_stored_is_what_is_asked(views: Views, teacher: str, teachers: Teachers, tmp_path: Path) -> None:
    how = schedule(views, teacher=teacher)
    labels = stored(tmp_path / "labels", teachers, how)
    online = Online(images(), how, list(teachers))
    for epoch in (2, 0, 1):
        batches = zip(Stored(images(), labels).walk(epoch, ds.RNG(9)), online.walk(epoch, ds.RNG(0)("labels")), strict=True)
        for (x, y), (wanted_x, wanted_y) in batches:
            torch.testing.assert_close(x, wanted_x)
            torch.testing.assert_close(y, wanted_y, rtol=2e-3, atol=2e-3)
    assert labels.epochs == 3
    assert len(labels) == 3  # 7, 7 and 8 images: the last one is not left alone
    assert forecast(how, 22, 10) == labels.nbytes


def test_batches_are_read_in_any_order(teachers: Teachers, tmp_path: Path) -> None:
    labels = stored(tmp_path / "labels", teachers, schedule())
    there = {(epoch, number): labels.batch(epoch, number) for epoch in range(3) for number in range(3)}
    again = Labels.read(tmp_path / "labels", "set")
    for key in reversed(list(there)):
        rows, view, logits = again.batch(*key)
        assert torch.equal(rows, there[key][0])
        assert torch.equal(logits, there[key][2])
        x = images().batch(rows).x
        assert torch.equal(shown(x, view), shown(x, there[key][1]))
    assert sorted(torch.cat([there[0, number][0] for number in range(3)]).tolist()) == list(range(22))


def test_few_logits_and_what_becomes_of_the_rest(teachers: Teachers, tmp_path: Path) -> None:
    whole = stored(tmp_path / "whole", teachers, schedule()).batch(1, 1)[2]
    few = stored(tmp_path / "few", teachers, schedule(top=3)).batch(1, 1)[2]
    least = stored(tmp_path / "least", teachers, schedule(top=3, rest="smallest")).batch(1, 1)[2]
    values, which = whole.topk(3, 1)
    assert torch.equal(few.topk(3, 1).values, values)
    assert torch.equal(torch.isinf(few).sum(1), torch.full((7,), 7))
    assert torch.equal(least, torch.maximum(whole * torch.zeros_like(whole).scatter(1, which, 1.0) + torch.where(
        torch.zeros_like(whole).scatter(1, which, 1.0) > 0, 0.0, -1e9), values[:, -1:]))
    loss = ds.losses.kl(torch.randn(7, 10), few, 4.0)
    assert torch.isfinite(loss)
    assert forecast(schedule(top=3), 22, 10) < forecast(schedule(), 22, 10)
    assert stored(tmp_path / "all", teachers, schedule(top=99)).batch(1, 1)[2].equal(whole)


def test_fewer_epochs_of_labels_are_all_used_before_any_comes_again(teachers: Teachers, tmp_path: Path) -> None:
    how = schedule(epochs=6, batch_size=5)._replace(relabel=Relabel(store=True, epochs=2))
    labels = stored(tmp_path / "labels", teachers, how)
    assert (labels.epochs, len(labels)) == (2, 4)  # of 22 images two are left out in every epoch
    seen: list[bytes] = []
    for epoch in range(6):
        seen += [x.numpy().tobytes() for x, _ in Stored(images(), labels).walk(epoch, ds.RNG(3))]
    turns = [seen[start:start + 8] for start in (0, 8, 16)]
    assert set(turns[0]) == set(turns[1]) == set(turns[2])
    assert len(set(turns[0])) == 8
    assert turns[0] != turns[1] != turns[2]
    other = [x.numpy().tobytes() for epoch in range(2, 4) for x, _ in Stored(images(), labels).walk(epoch, ds.RNG(4))]
    assert other != turns[1]


def test_the_statistics_of_the_batch_leave_the_teacher_as_it_was(teachers: Teachers) -> None:
    teacher, x = teachers[0], images().x
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    direct = label([teacher], x, "batch")
    assert all(torch.equal(value, before[name]) for name, value in teacher.network.state_dict().items())
    norm = nn.modules.batchnorm._BatchNorm
    twin = tiny.task(tiny.run("recover")).teachers(tiny.run("recover").method.pool)[0].network  # type: ignore[attr-defined]
    for module in twin.modules():
        if isinstance(module, norm):
            module.train()
    with torch.no_grad():
        torch.testing.assert_close(twin(x), direct)
    assert not torch.allclose(direct, label([teacher], x))
    with pytest.raises(ZeroDivisionError), asked(teacher, "batch"):
        raise ZeroDivisionError
    torch.testing.assert_close(label([teacher], x), teacher.network(x).detach())


def test_several_teachers_are_averaged_and_named_by_the_runs_classes(teachers: Teachers) -> None:
    one = teachers[0]
    other = replace(one, domain=replace(one.domain, classes=tuple(reversed(one.domain.classes))))
    x = images().x
    torch.testing.assert_close(label([one, other], x), 0.5 * (one.logits(x) + one.logits(x).flip(1)).detach())


def test_without_teachers_labels_are_mixed_like_the_images() -> None:
    how = schedule(Views(window="none", flip=False, mix="mixup"))
    for x, y in Online(images(), how, ()).walk(0, ds.RNG(0)):
        assert x.shape[0] == y.shape[0]
        assert torch.allclose(y.sum(1), torch.ones(len(y)))
    plain = Online(images(), how, ()).batch(torch.arange(3))
    assert torch.equal(plain.x, images().x[:3])


@pytest.mark.parametrize("stop", [1, 2])
def test_it_goes_on_where_it_stopped(stop: int, teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stored(tmp_path / "whole", teachers, schedule())
    with pytest.raises(Stopped):
        stored(tmp_path / "parts", teachers, schedule(), progress=Told(stop_at=stop))
    asked_for: list[int] = []
    original = label_store._epoch

    def counted(*arguments: Any) -> Any:
        asked_for.append(arguments[4])
        return original(*arguments)

    monkeypatch.setattr(label_store, "_epoch", counted)
    parts = stored(tmp_path / "parts", teachers, schedule())
    assert asked_for == list(range(stop, 3))
    assert parts.card["sums"] == whole.card["sums"]
    assert not (tmp_path / "parts" / label_store.STATE).exists()


def test_what_is_damaged_or_of_another_set_is_named(teachers: Teachers, tmp_path: Path) -> None:
    labels = stored(tmp_path / "labels", teachers, schedule())
    with input_error("labels of another set", "delete"):
        stored(tmp_path / "labels", teachers, schedule(), checksum="other")
    path = labels.folder / "logits.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with input_error("logits.npy is damaged", "delete"):
        Labels.read(labels.folder).batch(2, 0)
    path.write_bytes(content[:200] + bytes([content[200] ^ 4]) + content[201:])
    with input_error("logits.npy is damaged: row 0", "delete"):
        Labels.read(labels.folder).batch(0, 0)
    path.unlink()
    with input_error("logits.npy is damaged", "delete"):
        Labels.read(labels.folder).batch(0, 0)
    with input_error("is not finished"):
        Labels.read(tmp_path)
    write_record(tmp_path / "card.json", {"kind": "datastill.teacher"})
    with input_error("holds no labels", "datastill relabel"):
        Labels.read(tmp_path)


def test_a_beginning_of_other_labels_is_refused(teachers: Teachers, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        stored(tmp_path / "labels", teachers, schedule(), progress=Told(stop_at=1))
    with input_error("the beginning of other labels"):
        stored(tmp_path / "labels", teachers, schedule(epochs=4))
    state = json.loads((tmp_path / "labels" / label_store.STATE).read_text())
    state.pop("checksum")
    state["sums"]["flips"] = ["0" * 64]
    write_record(tmp_path / "labels" / label_store.STATE, state)
    with input_error("flips.npy is damaged"):
        stored(tmp_path / "labels", teachers, schedule())


def test_logits_too_large_for_half_precision(teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_store, "label", lambda teachers, x, how: torch.full((len(x), 10), 1e6))
    with pytest.raises(RunError, match="half precision cannot hold"):
        stored(tmp_path / "labels", teachers, schedule())


@pytest.mark.parametrize(("what", "options", "parts"), [
    (Views, {"window": "zoom"}, ("window",)),
    (Views, {"area": 0.0}, ("area", "greater than 0")),
    (Views, {"mix": "blend"}, ("mix",)),
    (Views, {"beta": 0.0}, ("beta",)),
    (Relabel, {"epochs": -3}, ("epochs",)),
    (Relabel, {"teacher": "train"}, ("teacher",)),
])
def test_bad_input(what: Any, options: dict[str, Any], parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        what(**options)


def test_views_are_functions_of_their_stream() -> None:
    views = Views(strips=2)
    one, two = (views.draw(ds.RNG(1), 6, (8, 8)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one[:3], two[:3], strict=True) if isinstance(a, Tensor))
    assert one.mix is not None
    assert two.mix is not None
    assert torch.equal(one.mix.order, two.mix.order)


@pytest.mark.parametrize("rest", ["none", "smallest"])
def test_as_much_is_kept_of_labels_that_are_not_stored(rest: Any, teachers: Teachers, tmp_path: Path) -> None:
    """Real images to compare with get labels of as many epochs, as many logits, in half precision."""
    how = schedule(epochs=6, batch_size=5)._replace(relabel=Relabel(store=True, epochs=2, top=2, rest=rest))
    labels = stored(tmp_path / "labels", teachers, how)
    online = Online(images(), how, list(teachers))
    seen: set[bytes] = set()
    for epoch in range(6):
        there, asked_for = list(Stored(images(), labels).walk(epoch, ds.RNG(3))), list(online.walk(epoch, ds.RNG(3)))
        assert [len(x) for x, _ in there] == [len(x) for x, _ in asked_for]
        for (_, y), (x, found) in zip(there, asked_for, strict=True):
            assert torch.equal(torch.isinf(y).sum(1), torch.isinf(found).sum(1))
            assert torch.equal(found, found.half().float())
            seen.add(x.numpy().tobytes())
    assert len(seen) == 8  # batches of two epochs


def test_a_schedule_that_leaves_out_incomplete_batches_has_another_name(teachers: Teachers) -> None:
    names = {name_of("set", schedule(epochs=epochs)._replace(relabel=Relabel(store=True, epochs=3)), teachers.pool, teachers, ds.RNG(0))
             for epochs in (3, 9)}
    assert len(names) == 2
