"""A run that starts from a finished set."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill import artifact
from datastill.data.domain import bring, domain_of
from datastill.description import load
from datastill.digest import dump
from datastill.errors import RunError
from datastill.files import sha256
from datastill.recipes import read_recipe
from datastill.report.reproduce import commands
from datastill.run import read_run
from datastill.running import begin, read_start
from kit import Told, input_error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("previous") / "run"
    tiny.distill(tiny.run(ipc=2), place)
    return place


def run_of(folder: Path, **fields: Any) -> ds.Run:
    return tiny.run(ipc=fields.pop("ipc", 2), start_from=str(folder), **fields)


def start_of(run: ds.Run, images: ds.Images | None = None) -> ds.SyntheticSet:
    task = tiny.task(run) if images is None else run.task(images, root=tiny.ROOT)
    return begin(run, task, read_start(run, task)).synthetic


def classes(wanted: list[str], images: ds.Images) -> ds.Images:
    """The images of these classes alone, in this order."""
    numbers = [images.classes.index(name) for name in wanted]
    rows = torch.cat([images.of_class[c] for c in numbers])
    targets = torch.cat([torch.full((len(images.of_class[c]),), new) for new, c in enumerate(numbers)])
    part = images.subset(rows)
    return ds.Images(part.pixels, targets, tuple(wanted), images.mean, images.std)


def test_it_goes_on_from_the_images(folder: Path) -> None:
    assert torch.equal(start_of(run_of(folder)).batch().x, ds.load(folder).x)


def test_more_images_come_from_the_methods_own_start(folder: Path) -> None:
    found, own = start_of(run_of(folder, ipc=3)).batch().x, start_of(tiny.run(ipc=3)).batch().x
    found, own = found.view(10, 3, -1), own.view(10, 3, -1)
    assert torch.equal(found[:, :2], ds.load(folder).x.view(10, 2, -1))
    assert torch.equal(found[:, 2], own[:, 2])
    assert torch.equal(start_of(run_of(folder, ipc=1)).batch().x, ds.load(folder).x[::2])


def test_rows_are_matched_by_class_name(folder: Path, tmp_path: Path) -> None:
    few = classes(["7", "2"], tiny.splits().train)
    x = start_of(run_of(folder), few).batch().x
    assert torch.equal(x, ds.load(folder).x[[14, 15, 4, 5]])
    small = tiny.run(ipc=2)
    ds.distill(small, few, tmp_path / "small", root=tiny.ROOT)
    grown, own = start_of(run_of(tmp_path / "small")).batch().x, start_of(small).batch().x
    assert torch.equal(grown[[14, 15, 4, 5]], ds.load(tmp_path / "small").x)
    rest = [row for row in range(20) if row not in (14, 15, 4, 5)]
    assert torch.equal(grown[rest], own[rest])


def test_other_data_bring_it_into_their_normalization(folder: Path) -> None:
    real = tiny.splits().train
    other = ds.Images(real.pixels, real.targets, real.classes, (0.1,), (0.7,))
    there = ds.load(folder)
    assert torch.equal(start_of(run_of(folder), other).batch().x, bring(there.x, there.domain, domain_of(other)))
    assert there.domain.looks_like(domain_of(real))


def test_a_learned_learning_rate_and_soft_labels_go_on(tmp_path: Path) -> None:
    options = {"labels": "learned", "optim": {"images": {"lr": 1.0}, "labels": {"lr": 1.0}, "inner_lr": {"lr": 1e-3}}}
    run = tiny.run("trajectory", ipc=2, method_options=options)
    done = tiny.distill(run, tmp_path / "first")
    onward = start_of(run_of(tmp_path / "first", method_name="trajectory", ipc=3, method_options=options))
    assert onward.lr is not None
    assert done.lr is not None
    assert onward.lr.item() == done.lr != pytest.approx(0.01, abs=1e-9)
    assert torch.equal(onward.labels.view(10, 3, 10)[:, :2], done.tensors["logits"].view(10, 2, 10))
    hard = start_of(run_of(tmp_path / "first"))
    assert torch.equal(hard.batch().x, done.batch().x)
    assert torch.equal(hard.labels, torch.eye(10).repeat_interleave(2, 0))
    assert hard.lr is None
    few = classes(["7", "2"], tiny.splits().train)
    soft = run_of(tmp_path / "first", method_name="trajectory", method_options=options)
    with input_error("its soft labels are for other classes", "only be continued with the same classes"):
        start_of(soft, few)


def test_shards_go_on_from_their_own_images(folder: Path) -> None:
    theirs = ds.load(folder).x.view(10, 2, -1)
    first, second = (start_of(run_of(folder, shard=(number, 2), ipc=3)).batch().x.view(10, -1, 64) for number in range(2))
    assert torch.equal(first, theirs[:, :1])
    assert torch.equal(second[:, :1], theirs[:, 1:])
    own = start_of(tiny.run(shard=(1, 2), ipc=3)).batch().x.view(10, 2, -1)
    assert torch.equal(second[:, 1], own[:, 1])


def test_parameters_go_on(tmp_path: Path) -> None:
    done = tiny.distill(tiny.run(parametrization="quarters:Quarters"), tmp_path / "first")
    again = start_of(run_of(tmp_path / "first", parametrization="quarters:Quarters", ipc=2))
    assert torch.equal(again.images["tiles"][::2], done.tensors["parameters.tiles"])
    real = tiny.splits().train
    other = ds.Images(real.pixels, real.targets, real.classes, (0.1,), (0.7,))
    with input_error("with another normalization or whitening", "quarters:Quarters"):
        start_of(run_of(tmp_path / "first", parametrization="quarters:Quarters"), other)


def test_the_digest_knows_what_it_starts_from_and_not_where(folder: Path, tmp_path: Path) -> None:
    images = tiny.splits().train
    shutil.copytree(folder, tmp_path / "copy")
    tiny.distill(tiny.run(ipc=2, seed=1), tmp_path / "other")
    digests = [run.digest(images) for run in (run_of(folder), run_of(tmp_path / "copy"), run_of(tmp_path / "other"), tiny.run(ipc=2))]
    assert digests[0] == digests[1]
    assert len({*digests}) == 3


def test_card_and_run_file(folder: Path, tmp_path: Path) -> None:
    run = run_of(folder)
    tiny.distill(run, tmp_path / "run")
    card = ds.load(tmp_path / "run").card
    assert card["started_from"] == {"digest": ds.load(folder).card["digest"], "checksum": sha256(folder / artifact.TENSORS)}
    assert str(folder) not in (tmp_path / "run" / artifact.CARD).read_text()
    assert read_run(tmp_path / "run") == run
    assert read_recipe(str(tmp_path / "run" / "run.toml")).run == run
    assert commands("run", {**card, "recipe": "dm/digits-ipc1"}, load(ds.Run, card["run"]), [])[0] == \
        "datastill distill run/run.toml --out run"


def test_resumed_when_the_folder_has_gone(folder: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(folder, first)
    run = run_of(first)
    tiny.distill(run, tmp_path / "whole")
    with pytest.raises(RunError):
        tiny.distill(run, tmp_path / "broken", progress=Told(stop_at=0))
    shutil.rmtree(first)
    for _ in range(2):  # on to the end, and once more when it is finished
        tiny.distill(run, tmp_path / "broken")
    for name in (artifact.TENSORS, artifact.CARD):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
    with input_error(str(first), "holds no distilled set"):
        tiny.distill(run, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_started_from_another_set(folder: Path, tmp_path: Path) -> None:
    tiny.distill(tiny.run(ipc=2, seed=1), tmp_path / "other")
    tiny.distill(run_of(folder), tmp_path / "run")
    with input_error("holds a run that started from another set", "now given"):
        tiny.distill(run_of(tmp_path / "other"), tmp_path / "run")


def test_what_cannot_be_gone_on_from(folder: Path, tmp_path: Path) -> None:
    def refused(run: ds.Run, *parts: str, images: ds.Images | None = None) -> None:
        with input_error(*parts):
            ds.distill(run, tiny.splits().train if images is None else images, tmp_path / "new", root=tiny.ROOT)
        assert not (tmp_path / "new").exists()

    damaged, unfinished = tmp_path / "damaged", tmp_path / "unfinished"
    shutil.copytree(folder, damaged)
    content = bytearray((damaged / artifact.TENSORS).read_bytes())
    content[-5] ^= 1
    (damaged / artifact.TENSORS).write_bytes(content)
    refused(run_of(damaged), "is damaged")
    with pytest.raises(RunError):
        tiny.distill(tiny.run(ipc=2), unfinished, progress=Told(stop_at=0))
    refused(run_of(unfinished), "a run that has not finished")
    refused(run_of(folder, parametrization="quarters:Quarters"), "parametrized in another way", "its kind is pixels, now given: quarters:Quarters")
    real = tiny.splits().train
    tall = ds.Images(real.pixels.repeat(1, 1, 2, 2), real.targets, real.classes, real.mean, real.std)  # type: ignore[union-attr]
    refused(run_of(folder), "its images have shape (1, 8, 8), the run's have (1, 16, 16)", images=tall)
    renamed = ds.Images(real.pixels, real.targets, tuple("abcdefghij"), real.mean, real.std)
    refused(run_of(folder), "none of its classes (10: 0, 1, 2, ...)", images=renamed)
    refused(run_of(folder, method_name="trajectory", method_options={"labels": "learned"}), "it has hard labels")
    assert dump(run_of(folder))["start_from"] == str(folder)
