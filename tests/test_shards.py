"""Shards: parts of a set, made apart and put together."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill import artifact
from datastill.description import load
from datastill.digest import dump
from datastill.errors import InputError
from datastill.report import report
from datastill.run import check_run, read_run
from datastill.running import begin
from datastill.shards import merge
from kit import Told, input_error, toy_images

IPC, OF = 5, 2


def run_of(number: int = 0, of: int = OF, **fields: Any) -> ds.Run:
    return tiny.run(fields.pop("method", "distribution"), ipc=fields.pop("ipc", IPC), shard=(number, of), **fields)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shards")
    for number in range(OF):
        tiny.distill(run_of(number), folder / str(number), about={"protocol": {"kind": "dc"}})
    return [folder / str(number) for number in range(OF)]


@pytest.mark.parametrize(("ipc", "of"), [(5, 2), (4, 4), (7, 3), (10, 1)])
def test_images_are_dealt_evenly(ipc: int, of: int) -> None:
    dealt = [run_of(number, of, ipc=ipc).rows for number in range(of)]
    assert [row for rows in dealt for row in rows] == list(range(ipc))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_no_shard_is_the_run_as_it_was() -> None:
    images = tiny.splits().train
    assert tiny.run().digest(images) == tiny.run(shard=(0, 1)).digest(images)
    assert len({run_of(number).digest(images) for number in range(OF)} | {tiny.run(ipc=IPC).digest(images)}) == 3
    assert begin(tiny.run(), tiny.task(tiny.run())).rng == ds.RNG(0)
    assert begin(run_of(1), tiny.task(run_of(1))).rng == ds.RNG(0)("shard", 1, 2)


@pytest.mark.parametrize("method", tiny.METHODS)
def test_no_two_start_from_one_image(method: str) -> None:
    runs = [run_of(number, method=method, ipc=20) for number in range(OF)]
    starts = [begin(run, tiny.task(run)).synthetic.batch().x.flatten(1) for run in runs]
    real = tiny.splits().train.batch(torch.arange(len(tiny.splits().train))).x.flatten(1)
    used = [{int(row) for x in start for row in torch.nonzero((real == x).all(1)).flatten()[:1]} for start in starts]
    noise = getattr(runs[0].method, "init", "real") == "noise"
    assert method == "rded" or [len(rows) for rows in used] == ([0, 0] if noise else [100, 100])  # there, crops of images
    assert not used[0] & used[1]


def test_iterations_draw_from_all_images_and_teachers_are_those_of_the_whole() -> None:
    task = tiny.task(run_of())
    part = task.part(1, 2)
    assert begin(run_of(), task).task.real is task.real
    assert [len(rows) for rows in part.real.of_class] == [len(rows[1::2]) for rows in task.real.of_class]
    pool = load(ds.find(ds.Plugin, "clom"), tiny.plugin_options("clom")).pool  # type: ignore[attr-defined]
    assert part.teachers(pool) is task.teachers(pool)


@pytest.mark.parametrize(("shard", "message"), [((2, 2), "i of 0 to n - 1, got"), ((0, 0), "i of 0 to n - 1"), ((-1, 2), "i of 0"),
                                                ((0, 6), "6 parts of 5 images per class; use 5 parts or fewer")])
def test_what_is_no_shard(shard: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_of(*shard)


def test_a_part_with_too_few_real_images() -> None:
    run = load(ds.Run, {"method": tiny.method("distribution"), "network": "mlp", "ipc": 3, "shard": (1, 2)})
    with input_error("shard 1 of 2 needs 2 images per class", "starts from only 1 of the 3", "one in 2", "use ipc=2"):
        check_run(run, toy_images(per_class=3))


def test_merged_is_what_the_parts_hold(parts: list[Path], tmp_path: Path) -> None:
    merge(parts[::-1], tmp_path / "whole")
    whole, held = ds.load(tmp_path / "whole"), [ds.load(part) for part in parts]
    assert [part.card["ipc"] for part in held] == [2, 3]
    for name in ("x", "y", "view"):
        both = [getattr(part, name).reshape(10, part.card["ipc"], *getattr(part, name).shape[1:]) for part in held]
        assert torch.equal(getattr(whole, name), torch.cat(both, 1).flatten(0, 1))
    assert (whole.card["ipc"], whole.card["count"], whole.card["run"]["shard"]) == (IPC, 50, [0, 1])
    assert whole.card["merged"] == [part.card["digest"] for part in held]
    assert whole.card["protocol"] == {"kind": "dc"}
    assert read_run(tmp_path / "whole") == tiny.run(ipc=IPC)
    page = report([tmp_path / "whole"], tmp_path / "page.html").read_text()
    assert f"datastill merge {whole.card['merged'][0]}" in page


@pytest.mark.parametrize("after", range(4))
def test_a_killed_merge_is_done_again(parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    left, replace_ = iter(range(after)), os.replace

    def replaced(*paths: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        replace_(*paths)

    monkeypatch.setattr(os, "replace", replaced)
    with pytest.raises(KeyboardInterrupt):
        merge(parts, tmp_path / "whole")
    monkeypatch.undo()
    if after == 1:  # another merge does not take the folder over
        with input_error("not empty"):
            merge([made(tmp_path / "a", run_of(0, seed=9)), made(tmp_path / "b", run_of(1, seed=9))], tmp_path / "whole")
    merge(parts, tmp_path / "whole")
    merge(parts, tmp_path / "again")
    assert ds.load(tmp_path / "whole").card == ds.load(tmp_path / "again").card
    with input_error("not empty"):
        merge(parts, tmp_path / "whole")


@pytest.mark.parametrize(("method", "options"), [
    ("rded", {}), ("recover", {}), ("recover", {"init": "real", "batch_size": 3}),
    ("recover", {"init": "patches", "patches": {"images": 40}, "stages": 2, "iterations": 4, "sides": [6, 8], "pool": tiny.POOLING})])
def test_parts_of_a_method_that_splits_are_those_of_the_unbroken_run(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    of = {"method_options": options, "seed": 3}
    whole = tiny.distill(tiny.run(method, ipc=IPC, **of), tmp_path / "whole")
    parts = [tmp_path / str(number) for number in range(OF)]
    for number, part in enumerate(parts):
        tiny.distill(run_of(number, method=method, **of), part)
    merge(parts, tmp_path / "merged")
    merged = ds.load(tmp_path / "merged")
    assert torch.equal(merged.x, whole.x)
    assert torch.equal(merged.y, whole.y)


@pytest.mark.parametrize(("method", "options", "across"), [
    ("rded", {}, 3), ("recover", {}, 2), ("recover", {"init": "real", "batch_size": 3}, 4),
    ("recover", {"init": "patches", "patches": {"images": 40}, "stages": 2, "iterations": 4, "sides": [6, 8], "pool": tiny.POOLING}, 3)])
def test_a_grid_of_classes_and_images_is_the_unbroken_run(method: str, options: dict[str, Any], across: int, tmp_path: Path) -> None:
    of = {"method_options": options, "seed": 3}
    whole = tiny.distill(tiny.run(method, ipc=IPC, **of), tmp_path / "whole")
    parts = []
    for number in range(OF):
        for place in range(across):
            parts.append(tmp_path / f"{number}-{place}")
            tiny.distill(run_of(number, method=method, class_shard=(place, across), **of), parts[-1])
    held = [ds.load(part) for part in parts]
    assert sum(len(part) for part in held) == len(whole) == 10 * IPC
    assert [part.card["images_of"] for part in held[:across]] == sorted(part.card["images_of"] for part in held[:across])
    with input_error("is missing", f"class_shard=[{across - 1},{across}]"):
        merge(parts[:-1], tmp_path / "merged")
    merge(list(reversed(parts)), tmp_path / "merged")
    merged = ds.load(tmp_path / "merged")
    assert torch.equal(merged.x, whole.x)
    assert torch.equal(merged.y, whole.y)
    assert "images_of" not in merged.card
    assert read_run(tmp_path / "merged") == tiny.run(method, ipc=IPC, **of)
    report(parts[:1], tmp_path / "page.html")
    with input_error("a part of one", "merge all parts first"):
        ds.evaluate(held[0], "dc", tiny.splits().test, network=tiny.NETWORK)


@pytest.mark.parametrize(("method", "shard", "parts"), [
    ("recover", (0, 4), ("4 parts", "recover distills 4 classes together", "3 parts of 10 classes at most")),
    ("distribution", (0, 2), ("2 parts", "distribution distills 10 classes together", "1 part of 10")),
    ("rded", (3, 3), ("class_shard", "j of 0 to m - 1", "[3, 3]")),
])
def test_classes_that_belong_together_stay_together(method: str, shard: tuple[int, int], parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        check_run(tiny.run(method, class_shard=shard), tiny.splits().train, root=tiny.ROOT)
    with input_error("start_from"):
        tiny.run("rded", class_shard=(0, 2), start_from="somewhere")


def test_parts_may_have_found_their_data_in_other_places(parts: list[Path], tmp_path: Path) -> None:
    moved = run_of(1, data=ds.Data(source="digits", validation=0.1, path=str(tmp_path)))
    made(tmp_path / "moved", moved, replace(tiny.splits().train, origin=moved.data))
    assert read_run(tmp_path / "moved") == moved
    merge([parts[0], tmp_path / "moved"], tmp_path / "whole")
    assert ds.load(tmp_path / "whole").card["merged"][1] == ds.load(parts[1]).card["digest"]


def test_a_merged_set_is_not_taken_for_the_run_in_one(parts: list[Path], tmp_path: Path) -> None:
    merge(parts, tmp_path / "whole")
    with pytest.raises(InputError, match="holds another run"):
        tiny.distill(tiny.run(ipc=IPC), tmp_path / "whole")


def test_merged_parameters_and_soft_labels(tmp_path: Path) -> None:
    folders = []
    for number in range(OF):
        run = run_of(number, parametrization="quarters:Quarters", ipc=3)
        task = tiny.task(run)
        start = task.random_real(len(run.rows), ds.RNG(number))
        synthetic = task.synthetic(start._replace(y=4 * start.y + number), soft=True, lr=0.5)
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        artifact.write(folders[-1], synthetic, {"run": dump(run), "digest": str(number), "ipc": len(run.rows),
                                                "data": {"name": "digits", "fingerprint": task.real.fingerprint}})
    merge(folders, tmp_path / "whole")
    first, second, whole = (artifact.load(folder).tensors for folder in (*folders, tmp_path / "whole"))
    for name, each in (("parameters.tiles", 1), ("logits", 1), ("images", 4), ("labels", 4)):
        a, b = first[name].split(each), second[name].split(2 * each)
        assert torch.equal(whole[name], torch.cat([part for pair in zip(a, b, strict=True) for part in pair]))
    assert whole["lr"] == 0.5


def made(folder: Path, run: ds.Run, images: Any = None) -> Path:
    ds.distill(run, tiny.splits().train if images is None else images, folder, root=tiny.ROOT)
    return folder


def test_what_does_not_fit_is_refused(parts: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with input_error("part 1 of 2 is missing", "shard=[1,2]"):
        merge(parts[:1], out)
    with input_error("are both part 0 of 2"):
        merge([parts[0], *parts], out)
    with input_error("are not parts of one set", "they differ in the run's seed"):
        merge([parts[0], made(tmp_path / "seed", run_of(1, seed=1))], out)
    with input_error("are not parts of one set", "the data's fingerprint"):
        merge([parts[0], made(tmp_path / "data", run_of(1), replace(tiny.splits().train.subset(torch.arange(900)), origin=run_of(1).data))], out)
    with input_error("are not parts of one set", "the run's method"):
        merge([parts[0], made(tmp_path / "method", run_of(1, method_options={"batch_real": 9}))], out)
    with pytest.MonkeyPatch.context() as patch:  # from teachers in a file of the same name, for example
        patch.setattr("datastill.running.prepare", lambda run, task: {"method": {"teachers": [{"digest": "another"}]}})
        other = made(tmp_path / "other", run_of(1))
    with input_error("are not parts of one set", "they differ in what they were prepared with"):
        merge([parts[0], other], out)
    with input_error("is part 1 of 3", "is one of 2"):
        merge([parts[0], made(tmp_path / "three", run_of(1, 3))], out)
    whole = made(tmp_path / "whole", tiny.run(ipc=IPC))
    for folders in ([whole], [whole, parts[0]], [parts[0], whole]):
        with input_error("whole is a whole set, not a part of one; expected parts distilled with shard=[0,n]"):
            merge(folders, out)
    with input_error("no folders of shards given"):
        merge([], out)
    assert not out.exists()
    with input_error("is not empty; choose another folder"):
        merge(parts, parts[0])
    with input_error("holds no distilled set"):
        merge([parts[0], tmp_path / "nowhere"], out)


@pytest.mark.parametrize(("more", "says"), [
    ({"plugins": {"total_variation": {"weight": 0.1}}}, "plug-in total_variation sees the images of a part"),
    ({"method_options": {"optim": {"images": {"clip": 1.0}}}}, "clips the gradient of the images of a part"), ({}, "")])
def test_what_ties_the_parts_of_a_recovery_together_is_said(more: dict[str, Any], says: str) -> None:
    told = Told()
    check_run(run_of(1, method="recover", **more), tiny.splits().train, root=tiny.ROOT, progress=told)
    assert [says in one for one in told.warned] == ([True] if says else [])


def test_different_learned_learning_rates_are_refused(tmp_path: Path) -> None:
    options = {"optim": {"images": {"lr": 1.0}, "inner_lr": {"lr": 1e-4}}}
    folders = [made(tmp_path / str(number), run_of(number, method="trajectory", ipc=2, method_options=options)) for number in range(OF)]
    with input_error("learned different learning rates", "method.optim.inner_lr.lr=0"):
        merge(folders, tmp_path / "out")
