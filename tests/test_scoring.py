"""Scores: paired, resumable, honest about what they are of."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

import datastill as ds
import tiny
from datastill import scoring
from datastill.config import load
from datastill.errors import InputError, RunError
from datastill.nets.mlp import MLP
from datastill.protocols.dc import DC

PROTOCOL, NETWORK = DC(epochs=6, lr=0.1, augment="none"), MLP(width=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scored") / "run"
    tiny.distill(tiny.run(), place)
    return place


def sheet(folder: Path, baselines: Path, **options: Any) -> dict[str, Any]:
    images = tiny.splits()
    return scoring.score(folder, ds.load(folder), options.pop("protocol", PROTOCOL), options.pop("network", NETWORK),
                         images.train, options.pop("images", images.test), baselines=baselines, trials=options.pop("trials", 2),
                         **options)


def test_evaluate_takes_sets_loaded_sets_and_images(folder: Path) -> None:
    synthetic = tiny.distill(tiny.run(), folder)
    of_set, of_loaded = (ds.evaluate(s, PROTOCOL, tiny.splits().test, network=NETWORK, trials=2)
                         for s in (synthetic, ds.load(folder)))
    assert [s.accuracy for s in of_set] == [s.accuracy for s in of_loaded]
    assert len({s.accuracy for s in of_set}) == 2
    (real,) = ds.evaluate(tiny.splits().train, "dc:epochs=5,lr=0.05,augment=none", tiny.splits().test, network="mlp", trials=1)
    assert real.accuracy > 0.5


def test_accuracy_is_the_share_of_right_predictions(folder: Path) -> None:
    (one,) = ds.evaluate(ds.load(folder), PROTOCOL, tiny.splits().test, network=NETWORK, trials=1)
    counts = tiny.splits().test.targets.bincount().tolist()
    right = sum(a * n for a, n in zip(one.per_class, counts, strict=True) if a is not None)
    assert one.accuracy == pytest.approx(right / sum(counts))


def test_trials_are_a_function_of_the_seed(folder: Path) -> None:
    a, b, c = (ds.evaluate(ds.load(folder), PROTOCOL, tiny.splits().test, network=NETWORK, trials=1, seed=s)[0].accuracy
               for s in (0, 0, 1))
    assert a == b != c


def test_other_classes_or_normalisation_are_refused(folder: Path) -> None:
    test = tiny.splits().test
    with pytest.raises(InputError, match="differ in classes"):
        ds.evaluate(ds.load(folder), PROTOCOL, replace(test, classes=tuple("abcdefghij")), network=NETWORK)
    with pytest.raises(InputError, match="differ in mean"):
        ds.evaluate(ds.load(folder), PROTOCOL, replace(test, mean=(0.5,)), network=NETWORK)
    with pytest.raises(InputError, match="trials: expected 1 or more"):
        ds.evaluate(ds.load(folder), PROTOCOL, test, network=NETWORK, trials=0)


def test_sheet_stands_beside_baselines_and_chance(folder: Path, tmp_path: Path) -> None:
    made = sheet(folder, tmp_path)
    assert made["chance"] == 0.1
    assert (made["split"], made["images"], made["network"]) == ("test", len(tiny.splits().test), "mlp:width=8")
    assert [len(made[s]) for s in ("synthetic", "random")] == [2, 2]
    assert made["random"][0]["accuracy"] != made["random"][1]["accuracy"]
    assert made in scoring.read_sheets(folder)


def test_second_call_trains_nobody_and_more_trials_only_the_missing(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sheet(folder, tmp_path, protocol=DC(epochs=2, augment="none"))
    trained: list[int] = []
    real_student = scoring.student
    monkeypatch.setattr(scoring, "student", lambda *a, **k: trained.append(a[4]) or real_student(*a, **k))
    assert sheet(folder, tmp_path, protocol=DC(epochs=2, augment="none")) == first
    assert not trained
    more = sheet(folder, tmp_path, protocol=DC(epochs=2, augment="none"), trials=3)
    assert trained == [2, 2]
    assert more["synthetic"][:2] == first["synthetic"]


def test_killed_scoring_keeps_the_finished_trials(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = DC(epochs=1, augment="none")
    real_student = scoring.student

    def dies(*a: Any, **k: Any) -> ds.Score:
        if a[4] == 1:
            raise KeyboardInterrupt
        return real_student(*a, **k)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "student", dies)
        with pytest.raises(KeyboardInterrupt):
            sheet(folder, tmp_path, protocol=protocol)
    assert all("summary" in s for s in scoring.read_sheets(folder))  # the unfinished one is not shown
    trained: list[int] = []
    monkeypatch.setattr(scoring, "student", lambda *a, **k: trained.append(a[4]) or real_student(*a, **k))
    sheet(folder, tmp_path, protocol=protocol)
    assert trained == [1, 0, 1]  # one of the distilled set, two of the random images


def test_full_data_on_request_is_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = DC(epochs=1, full_epochs=4, lr=0.05, augment="none")
    made = sheet(folder, tmp_path, protocol=protocol, full=True, trials=1)
    assert made["summary"]["full"]["mean"] > made["summary"]["synthetic"]["mean"]
    monkeypatch.setattr(scoring, "student", None)
    assert sheet(folder, tmp_path, protocol=protocol, full=True, trials=1)["full"] == made["full"]


def test_splits_and_networks_do_not_mix(folder: Path, tmp_path: Path) -> None:
    before = len(list((folder / "scores").glob("*.json")))
    sheet(folder, tmp_path, protocol=DC(epochs=1, lr=0.02, augment="none"))
    sheet(folder, tmp_path, protocol=DC(epochs=1, lr=0.02, augment="none"), split="validation",
          images=tiny.splits().validation)
    sheet(folder, tmp_path, protocol=DC(epochs=1, lr=0.02, augment="none"), network=MLP(width=9))
    assert len(list((folder / "scores").glob("*.json"))) == before + 3


def test_damaged_score_file_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "scores" / "x.json").write_text("{")
    with pytest.raises(InputError, match=r"x\.json is no readable score file"):
        scoring.read_sheets(folder)
    (folder / "scores" / "x.json").unlink()


def test_statistics_closed_form() -> None:
    found = scoring.statistics([0.1, 0.2, 0.6])
    assert found["mean"] == pytest.approx(0.3)
    assert found["std"] == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    low, high = stats.t.interval(0.95, 2, loc=0.3, scale=found["std"] / math.sqrt(3))
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    assert scoring.statistics([0.5]) == {"mean": 0.5, "std": 0.0, "n": 1}


def test_gain_is_paired_by_trial() -> None:
    trials = {s: [{"accuracy": a} for a in values] for s, values in
              {"synthetic": [0.5, 0.7], "random": [0.4, 0.6, 0.1]}.items()}
    gain = scoring.summary(trials)["gain"]
    assert (gain["mean"], gain["n"]) == (pytest.approx(0.1), 2)
    assert gain["std"] == pytest.approx(0.0, abs=1e-12)


def test_diverging_student_says_what_to_do(folder: Path) -> None:
    with pytest.raises(RunError, match="training diverged"):
        ds.evaluate(ds.load(folder), DC(epochs=30, lr=1e6, augment="none"), tiny.splits().test, network=NETWORK, trials=1)


def test_sheet_is_json_anyone_can_read(folder: Path, tmp_path: Path) -> None:
    sheet(folder, tmp_path)
    for path in (folder / "scores").glob("*.json"):
        made = json.loads(path.read_text())
        assert {"protocol", "network", "split", "seed", "ipc", "data", "chance", "synthetic", "random", "summary"} <= set(made)
        assert load(ds.Protocol, made["protocol"])


def test_nothing_ever_measured_is_dropped(folder: Path, tmp_path: Path) -> None:
    protocol = DC(epochs=2, full_epochs=2, lr=0.03, augment="none")
    more = sheet(folder, tmp_path, protocol=protocol, trials=2, full=True)
    less = sheet(folder, tmp_path, protocol=protocol, trials=1)
    assert less == more
    assert len(less["synthetic"]) == 2
    assert "full" in less


def test_sheets_of_another_set_are_left_out(folder: Path, tmp_path: Path) -> None:
    sheet(folder, tmp_path)
    tiny.distill(tiny.run(seed=5), tmp_path / "other")
    (tmp_path / "other" / "scores").mkdir()
    for path in (folder / "scores").glob("*.json"):
        (tmp_path / "other" / "scores" / path.name).write_bytes(path.read_bytes())
    assert scoring.read_sheets(folder)
    assert not scoring.read_sheets(tmp_path / "other")


def test_baseline_files_say_what_they_are_of(folder: Path, tmp_path: Path) -> None:
    protocol = DC(epochs=1, full_epochs=3, lr=0.04, augment="none")
    sheet(folder, tmp_path, protocol=protocol, trials=1, full=True)
    for path in tmp_path.glob("*.json"):
        made = json.loads(path.read_text())
        name = path.name.split("-")[0]
        assert made["subject"] == name
        assert not {"random", "full", "synthetic"} - {name} & set(made)
        assert made["protocol"]["epochs"] == (3 if name == "full" else 1)


@pytest.mark.parametrize("text", ["[]", "5", "null", '{"synthetic": 5}', '{"synthetic": [{"x": 1}]}',
                                  '{"synthetic": [{"trial": 0, "accuracy": 7, "per_class": [], "seconds": 1}]}'])
def test_score_file_of_another_form_is_named(folder: Path, tmp_path: Path, text: str) -> None:
    protocol = DC(epochs=1, lr=0.05, augment="none")
    before = set((folder / "scores").glob("*.json"))
    sheet(folder, tmp_path, protocol=protocol, trials=1)
    paths = set((folder / "scores").glob("*.json"))
    (path,) = paths - before if paths - before else [next(p for p in paths if json.loads(p.read_text())["protocol"]["lr"] == 0.05)]
    path.write_text(text)
    with pytest.raises(InputError, match=r"is no readable score file .*delete it to score again"):
        sheet(folder, tmp_path, protocol=protocol, trials=1)
    path.unlink()


def test_other_shape_and_no_images_are_refused(folder: Path) -> None:
    test = tiny.splits().test
    with pytest.raises(InputError, match="differ in shape"):
        ds.evaluate(ds.load(folder), PROTOCOL, replace(test, pixels=test.pixels.repeat(1, 1, 2, 2)), network=NETWORK)
    with pytest.raises(InputError, match="no images to score on"):
        ds.evaluate(ds.load(folder), PROTOCOL, test.subset(torch.tensor([], dtype=torch.long)), network=NETWORK)


def test_student_with_another_number_of_outputs(folder: Path) -> None:
    class Narrow(ds.Architecture):
        def build(self, shape: Any, classes: int) -> Any:
            return MLP().build(shape, 3)

    with pytest.raises(InputError, match=r"an output of shape \(3,\)"):
        ds.evaluate(ds.load(folder), PROTOCOL, tiny.splits().test, network=Narrow())


def test_weights_lost_in_the_very_last_step_are_no_score(folder: Path) -> None:
    with pytest.raises(RunError, match="diverged"):
        ds.evaluate(ds.load(folder), DC(epochs=1, lr=1e20, augment="none"), tiny.splits().test, network="convnet:width=4,depth=2",
                    trials=1)


def flagged(synthetic: list[float], random: list[float], images: int = 10_000, chance: float = 0.1) -> list[str]:
    sheet = {"synthetic": [{"accuracy": a} for a in synthetic], "random": [{"accuracy": a} for a in random],
             "chance": chance, "images": images}
    return scoring.flags({**sheet, "summary": scoring.summary(sheet)})


def test_the_sanity_floor() -> None:
    assert flagged([0.3, 0.31], [0.2, 0.21]) == []
    assert flagged([0.3, 0.31], [0.4, 0.41]) == ["below random real images"]
    assert flagged([0.3, 0.5], [0.4, 0.45]) == ["below random real images, but the interval includes 0"]
    assert flagged([0.105, 0.1], [0.08, 0.09]) == ["no better than guessing", "random real images no better than guessing: "
                                                   "this protocol does not train this network"]
    assert flagged([0.11], [0.111])[0] == "no better than guessing"  # a tenth above chance is chance
    assert flagged([0.12], [0.1])[0].startswith("random real")
    assert flagged([0.04], [0.03], chance=0.01) == []
    assert flagged([0.13], [0.2], images=100)[0] == "no better than guessing"  # so few images say little


def test_flags_stand_in_the_sheet(folder: Path, tmp_path: Path) -> None:
    found = sheet(folder, tmp_path, protocol=DC(epochs=1, lr=1e-9, augment="none"))
    assert "no better than guessing" in found["flags"]
    (read,) = [s for s in scoring.read_sheets(folder) if s["protocol"] == found["protocol"]]
    assert read["flags"] == found["flags"]


def test_a_protocol_that_follows_the_network_is_kept_as_it_was_carried_out(folder: Path, tmp_path: Path) -> None:
    found = sheet(folder, tmp_path, protocol=load(ds.Protocol, "tuned:epochs=2"), trials=1)
    assert found["protocol"]["lr"] > 0
    (one,) = ds.evaluate(ds.load(folder), "tuned:epochs=2", tiny.splits().test, network=NETWORK, trials=1)
    assert one.accuracy == found["synthetic"][0]["accuracy"]
