"""The generator that is trained on the run's own images: what it learns, where it is stored, how it goes on, what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill.compute import computing
from datastill.errors import RunError
from datastill.parametrizations import _autoencoder
from datastill.parametrizations._autoencoder import Autoencoder
from datastill.run import check_run
from datastill.running import begin, read_start
from kit import Told, input_error, toy_images

TRAINING: dict[str, Any] = {"width": 8, "halvings": 1, "channels": 2, "epochs": 3, "batch_size": 16, "lr": 3e-3}
REAL = toy_images(3, 16, (1, 8, 8))


def run(**training: Any) -> ds.Run:
    options = {"augment": "none", "batch_real": 4, "iterations": 2}
    return tiny.run(parametrization={"kind": "latent", "training": {**TRAINING, **training}}, method_options=options)


def folders(root: Path) -> list[Path]:
    return sorted((root / "generators").iterdir()) if (root / "generators").exists() else []


def test_it_is_trained_once_before_the_first_iteration(tmp_path: Path) -> None:
    told = Told()
    first = ds.distill(run(), REAL, tmp_path / "a", root=tmp_path, progress=told)
    (folder,) = folders(tmp_path)
    assert first.card["prepared"]["parametrization"]["generator"] == folder.name
    assert {path.name for path in folder.iterdir() if path.name != ".lock"} == {"card.json", "weights.pt"}
    before = (folder / "weights.pt").stat().st_mtime_ns
    second = ds.distill(run(), REAL, tmp_path / "b", root=tmp_path)
    assert (folder / "weights.pt").stat().st_mtime_ns == before
    assert torch.equal(first.x, second.x)
    ds.distill(run(seed=1), REAL, tmp_path / "c", root=tmp_path)
    assert len(folders(tmp_path)) == 2


def test_its_images_come_to_look_like_those_it_is_given(tmp_path: Path) -> None:
    real = tiny.splits().train.subset(torch.arange(300))
    apart = []
    for epochs in (1, 12):
        of = run(epochs=epochs, channels=4)
        of.parametrization.prepare(task := of.task(real, root=tmp_path))
        start = task.random_real(2, ds.RNG(0))
        apart.append(float((task.synthetic(start).decode() - start.x).square().mean()))
    assert apart[1] < 0.3 * apart[0]


def test_the_class_matters(tmp_path: Path) -> None:
    of = run()
    of.parametrization.prepare(task := of.task(REAL, root=tmp_path))
    codec = task.codec
    z = ds.RNG(0).normal(1, 2, 4, 4)
    one, two = (codec.generator(z, torch.eye(3)[[c]]) for c in (0, 1))  # type: ignore[attr-defined]
    assert not torch.equal(one, two)


def test_stop_and_go_on_is_the_unbroken_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_autoencoder, "EVERY", 0.0)
    how, state = Autoencoder(**TRAINING), []
    for name in ("whole", "broken"):
        root = tmp_path / name
        while not how.finished(REAL, root):
            try:
                how.train(REAL, root, Told(stop_at=0) if name == "broken" else Told())
            except RunError:
                assert (how.folder(REAL, root) / "state.pt").exists()
        state.append(how.load(REAL, root).state_dict())
        assert not (how.folder(REAL, root) / "state.pt").exists()
    assert all(torch.equal(state[0][key], state[1][key]) for key in state[0])


def test_nothing_is_trained_by_a_check_or_a_plan(tmp_path: Path) -> None:
    of = run()
    task = check_run(of, REAL, root=tmp_path)
    assert of.parametrization.seconds(task) > 0
    assert folders(tmp_path) == []


def test_a_damaged_one_is_named(tmp_path: Path) -> None:
    ds.distill(run(), REAL, tmp_path / "a", root=tmp_path)
    (folder,) = folders(tmp_path)
    content = bytearray((folder / "weights.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "weights.pt").write_bytes(content)
    with input_error("weights.pt is damaged", "delete"):
        ds.distill(run(), REAL, tmp_path / "b", root=tmp_path)


def test_one_that_diverges_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"diverged in epoch \d+ .*lower parametrization.training.lr"):
        ds.distill(run(lr=1e20), REAL, tmp_path / "a", root=tmp_path)


@pytest.mark.parametrize(("real", "training", "says"), [
    (toy_images(2, 4, (1, 6, 6)), {"halvings": 2}, ("6x6", "training.halvings=1")),
    (toy_images(2, 4, (1, 7, 7)), {}, ("7x7", "data.size")),
    (REAL, {"width": 12}, ("width", "multiple of 8")), (REAL, {"epochs": 0}, ("epochs",))])
def test_what_cannot_be(real: ds.Images, training: dict[str, Any], says: tuple[str, ...]) -> None:
    with input_error(*says):
        check_run(run(**training), real, root=tiny.ROOT)


def test_a_layer_it_does_not_have_is_named() -> None:
    of = tiny.run(parametrization={"kind": "latent", "training": TRAINING, "layer": "nowhere"})
    with input_error("the generator trained here passes no layer 'nowhere'", "decoder.conv_in"):
        check_run(of, REAL, root=tiny.ROOT)
    with input_error("passes no layer 'encoder'"):  # it is there, but not on the way to the images
        check_run(tiny.run(parametrization={"kind": "latent", "training": TRAINING, "layer": "encoder"}), REAL, root=tiny.ROOT)


def test_a_shard_has_the_generator_of_the_whole(tmp_path: Path) -> None:
    whole, part = run(), run().model_copy(update={"shard": (0, 2), "ipc": 2})
    for of in (whole, part):
        of.parametrization.prepare(task := of.task(REAL, root=tmp_path))
        loop = begin(of, task)
        trained = Autoencoder(**TRAINING).load(REAL, tmp_path).state_dict()
        used = loop.synthetic.codec.generator.state_dict()  # type: ignore[attr-defined]
        assert all(torch.equal(value, trained[name]) for name, value in used.items())
    assert len(folders(tmp_path)) == 1


def test_a_set_of_a_generator_trained_on_other_images_is_no_start(tmp_path: Path) -> None:
    ds.distill(run(), REAL, tmp_path / "first", root=tmp_path)
    again = run().model_copy(update={"start_from": str(tmp_path / "first")})
    assert read_start(again, again.task(REAL, root=tmp_path)) is not None
    other = REAL.subset(torch.arange(len(REAL) - 1))
    with input_error("decoded by autoencoder-", "load the run's data the way"):
        read_start(again, again.task(other, root=tmp_path))


def test_it_is_the_same_for_runs_of_every_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, inside = [], [0]

    @contextmanager
    def watched(*given: Any) -> Iterator[None]:
        asked.append(given)
        inside[0] += 1
        with computing(*given):
            yield
        inside[0] -= 1

    original = _autoencoder._Lesson.see

    def see(self: Any, *given: Any) -> float:
        assert inside[0] == 1
        return original(self, *given)

    monkeypatch.setattr(_autoencoder, "computing", watched)
    monkeypatch.setattr(_autoencoder._Lesson, "see", see)
    with computing(torch.device("cpu"), "tf32"):
        Autoencoder(**TRAINING).train(REAL, tmp_path, Told())
    assert asked == [(REAL.device,)] * 3  # float32, the default


def test_without_diffusers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with input_error("pip install -e '.[generators]'", "parametrization.generator"):
        check_run(run(), REAL, root=tiny.ROOT)
