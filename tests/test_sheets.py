"""Score sheets: paired, resumable, honest about what they are of."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import datastill as ds
import tiny
from datastill import sheets, trials
from datastill.description import load
from datastill.errors import InputError
from datastill.nets.mlp import MLP
from datastill.progress import Progress
from datastill.protocols.dc import DC
from datastill.scoring import Evaluation
from datastill.store import write_record
from kit import Call, Told, input_error

PROTOCOL, NETWORK = DC(epochs=6, lr=0.1, augment="none"), MLP(width=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scored") / "run"
    tiny.distill(tiny.run(), place)
    return place


def sheet(folder: Path, baselines: Path, **options: Any) -> dict[str, Any]:
    images = tiny.splits()
    evaluation = Evaluation(options.pop("protocol", PROTOCOL), options.pop("network", NETWORK), images.train,
                            options.pop("images", images.test), options.pop("split", "test"))
    return trials.score(folder, ds.load(folder), evaluation, baselines=baselines, trials=options.pop("trials", 2), **options)


def test_sheet_stands_beside_baselines_and_chance(folder: Path, tmp_path: Path) -> None:
    made = sheet(folder, tmp_path)
    assert made["chance"] == 0.1
    assert (made["split"], made["images"], made["network"]) == ("test", len(tiny.splits().test), "mlp:width=8")
    assert [len(made[s]) for s in ("synthetic", "random")] == [2, 2]
    assert made["random"][0]["accuracy"] != made["random"][1]["accuracy"]
    assert made in sheets.read_sheets(folder)


def test_second_call_trains_nobody_and_more_trials_only_the_missing(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sheet(folder, tmp_path, protocol=DC(epochs=2, augment="none"))
    trained: list[int] = []
    real_student = trials.student
    monkeypatch.setattr(trials, "student", lambda *a, **k: trained.append(a[4]) or real_student(*a, **k))
    assert sheet(folder, tmp_path, protocol=DC(epochs=2, augment="none")) == first
    assert not trained
    more = sheet(folder, tmp_path, protocol=DC(epochs=2, augment="none"), trials=3)
    assert trained == [2, 2]
    assert more["synthetic"][:2] == first["synthetic"]


def test_killed_scoring_keeps_the_finished_trials(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = DC(epochs=1, augment="none")
    real_student = trials.student

    def dies(*a: Any, **k: Any) -> ds.Score:
        if a[4] == 1:
            raise KeyboardInterrupt
        return real_student(*a, **k)

    with monkeypatch.context() as patch:
        patch.setattr(trials, "student", dies)
        with pytest.raises(KeyboardInterrupt):
            sheet(folder, tmp_path, protocol=protocol)
    assert all("summary" in s for s in sheets.read_sheets(folder))  # the unfinished one is not shown
    trained: list[int] = []
    monkeypatch.setattr(trials, "student", lambda *a, **k: trained.append(a[4]) or real_student(*a, **k))
    sheet(folder, tmp_path, protocol=protocol)
    assert trained == [1, 0, 1]  # one of the distilled set, two of the random images


def test_a_student_that_was_trained_ahead_is_not_trained_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As several processes do, in whatever order they end."""
    images = tiny.splits()
    what = {"folder": folder, "distilled": ds.load(folder), "evaluation": Evaluation(PROTOCOL, NETWORK, images.train, images.test),
            "scores": tmp_path / "scores", "baselines": tmp_path / "ahead"}
    plain = sheet(folder, tmp_path / "plain", scores=tmp_path / "other")
    asked = [("synthetic", 0), ("synthetic", 1), ("random", 0), ("random", 1)]
    assert trials.missing(**what, trials=2) == asked
    assert trials.missing(**what, trials=1, full=True) == [("synthetic", 0), ("random", 0), ("full", 0)]
    for subject, trial in (("random", 1), ("synthetic", 1)):
        trials.train_ahead(subject, trial, **what)  # type: ignore[arg-type]
    assert trials.missing(**what, trials=2) == [("synthetic", 0), ("random", 0)]
    trained, real = [], trials.student
    monkeypatch.setattr(trials, "student", lambda *given, **named: (trained.append(given[4]), real(*given, **named))[1])
    found = sheet(folder, tmp_path / "ahead", scores=tmp_path / "scores")
    assert trained == [0, 0]
    for subject in ("synthetic", "random"):
        assert [one["accuracy"] for one in found[subject]] == [one["accuracy"] for one in plain[subject]]
    assert not list(tmp_path.rglob("*.ahead"))
    assert trials.missing(**what, trials=2) == []


def test_a_damaged_student_is_named(folder: Path, tmp_path: Path) -> None:
    images = tiny.splits()
    what = {"folder": folder, "distilled": ds.load(folder), "evaluation": Evaluation(PROTOCOL, NETWORK, images.train, images.test),
            "scores": tmp_path / "scores", "baselines": tmp_path / "base"}
    trials.train_ahead("synthetic", 0, **what)
    (path,) = tmp_path.rglob("*.ahead")
    path.write_bytes(path.read_bytes().replace(b"accuracy", b"accurate"))
    with input_error(str(path), "checksum", "delete it"):
        sheet(folder, tmp_path / "base", scores=tmp_path / "scores")


def test_full_data_on_request_is_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = DC(epochs=1, full_epochs=4, lr=0.05, augment="none")
    made = sheet(folder, tmp_path, protocol=protocol, full=True, trials=1)
    assert made["summary"]["full"]["mean"] > made["summary"]["synthetic"]["mean"]
    monkeypatch.setattr(trials, "student", None)
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
    with pytest.raises(InputError, match=r"x\.json is damaged or was edited: its checksum does not match; delete it to score again"):
        sheets.read_sheets(folder)
    (folder / "scores" / "x.json").unlink()


def test_gain_is_paired_by_trial() -> None:
    done = {s: [{"accuracy": a} for a in values] for s, values in
            {"synthetic": [0.5, 0.7], "random": [0.4, 0.6, 0.1]}.items()}
    gain = sheets.summary(done)["gain"]
    assert (gain["mean"], gain["n"]) == (pytest.approx(0.1), 2)
    assert gain["std"] == pytest.approx(0.0, abs=1e-12)
    shares = {"synthetic": [[1.0, 0.5], [1.0, 0.25]], "random": [[0.5, 0.5], [0.5, 0.25]]}
    both = sheets.summary({s: [{"accuracy": 0.5, "per_class": one} for one in of] for s, of in shares.items()})["gain"]
    assert (both["mean"], both["balanced"]["mean"], both["balanced"]["n"]) == (0, pytest.approx(0.25), 2)


def test_sheet_is_json_anyone_can_read(folder: Path, tmp_path: Path) -> None:
    sheet(folder, tmp_path)
    for path in (folder / "scores").glob("*.json"):
        made = json.loads(path.read_text())
        assert {"protocol", "network", "split", "seed", "ipc", "data", "chance", "synthetic", "random", "summary"} <= set(made)
        assert load(ds.Protocol, made["protocol"])


def test_progress_is_that_of_all_students(folder: Path, tmp_path: Path) -> None:
    told = Told()
    sheet(folder, tmp_path, trials=2, protocol=DC(epochs=1, lr=0.021, augment="none"), progress=told)
    assert told.steps == [(done, 8) for done in range(1, 9)]  # of the set and of random images, 2 students, 2 epochs


def test_nothing_ever_measured_is_dropped(folder: Path, tmp_path: Path) -> None:
    protocol = DC(epochs=2, full_epochs=2, lr=0.03, augment="none")
    more = sheet(folder, tmp_path, protocol=protocol, trials=2, full=True)
    less = sheet(folder, tmp_path, protocol=protocol, trials=1)
    assert less == more
    assert len(less["synthetic"]) == 2
    assert "full" in less


def test_two_processes_that_score_one_set_lose_nothing(folder: Path, tmp_path: Path) -> None:
    mine, other = tmp_path / "run", DC(epochs=1, lr=0.05, augment="none")
    shutil.copytree(folder, mine, ignore=shutil.ignore_patterns("scores"))
    path = Path()

    class Meanwhile(Progress):
        """While this one trains a student, another process scores the same set with more of them, and selects."""

        said = False

        def tell(self, *what: Any) -> None:
            nonlocal path
            if not self.said:
                self.said = True
                sheet(mine, tmp_path / "baselines", protocol=other, trials=3)
                (path,) = (mine / "scores").glob("*.json")
                sheets.put(path, {"selected": {"split": "test", "of": 3, "iteration": 1, "accuracy": [0.5], "means": {1: 0.5}}})

    found = sheet(mine, tmp_path / "baselines", protocol=other, trials=2, progress=Meanwhile())
    assert {name: len(found[name]) for name in ("synthetic", "random")} == {"synthetic": 3, "random": 3}
    assert found["summary"]["gain"]["n"] == 3
    assert sheets.read(path)["selected"]["of"] == 3


def test_sheets_of_a_damaged_set_are_not_left_out_without_a_word(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "run"
    shutil.copytree(folder, mine)
    sheet(mine, tmp_path)
    content = bytearray((mine / "synthetic.safetensors").read_bytes())
    content[-1] ^= 1
    (mine / "synthetic.safetensors").write_bytes(content)
    with input_error("synthetic.safetensors", "damaged"):
        sheets.read_sheets(mine)


def test_sheets_of_another_set_are_left_out(folder: Path, tmp_path: Path) -> None:
    sheet(folder, tmp_path)
    tiny.distill(tiny.run(seed=5), tmp_path / "other")
    (tmp_path / "other" / "scores").mkdir()
    for path in (folder / "scores").glob("*.json"):
        (tmp_path / "other" / "scores" / path.name).write_bytes(path.read_bytes())
    assert sheets.read_sheets(folder)
    assert not sheets.read_sheets(tmp_path / "other")


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
    with pytest.raises(InputError, match=r"is damaged or was edited: its checksum does not match; delete it to score again"):
        sheet(folder, tmp_path, protocol=protocol, trials=1)
    for schema in (1, 2) if isinstance(content := json.loads(text), dict) else ():  # without a checksum, and with the right one
        path.write_text(json.dumps({**content, "schema": 1})) if schema == 1 else write_record(path, {**content, "schema": 2})
        with pytest.raises(InputError, match=r"is not a readable score file .*delete it to score again"):
            sheet(folder, tmp_path, protocol=protocol, trials=1)
    path.unlink()


def flagged(synthetic: list[float], random: list[float], images: int = 10_000, chance: float = 0.1) -> list[str]:
    sheet = {"synthetic": [{"accuracy": a} for a in synthetic], "random": [{"accuracy": a} for a in random],
             "chance": chance, "images": images}
    return sheets.flags({**sheet, "summary": sheets.summary(sheet)})


def test_the_sanity_floor() -> None:
    assert flagged([0.3, 0.31], [0.2, 0.21]) == []
    assert flagged([0.3, 0.31], [0.4, 0.41]) == ["below random real images"]
    assert flagged([0.3, 0.5], [0.4, 0.45]) == ["below random real images, but the interval includes 0"]
    assert flagged([0.105, 0.1], [0.08, 0.09]) == ["no better than guessing", "random real images no better than guessing: "
                                                   "this protocol may not train this network"]
    assert flagged([0.11], [0.111])[0] == "no better than guessing"  # a tenth above chance is chance
    assert flagged([0.12], [0.1]) == ["random real images no better than guessing"]  # the set shows that the protocol trains it
    assert flagged([0.04], [0.03], chance=0.01) == []
    assert flagged([0.13], [0.2], images=100)[0] == "no better than guessing"  # so few images say little


@pytest.mark.parametrize(("images", "counts", "largest", "text"), [
    (4, [2, 2], 0.5, "measured on 4 images: known only to about ±50 points"),
    (200, [190, 10], 0.95, "the accuracy on a class of 10 images, on which balanced accuracy rests, is known only to about ±32 points"),
    (200, [190, 10, 0], 0.95, "the accuracy on a class of 10 images, on which balanced accuracy rests, is known only to about ±32 points"),
    (200, [150, 50], 0.75, ""), (100, [10] * 10, 0.1, ""), (200, None, 0.95, "")])
def test_an_accuracy_that_rests_on_few_images_is_flagged(images: int, counts: list[int] | None, largest: float, text: str) -> None:
    sheet = {"summary": {"synthetic": {"mean": 0.97, "n": 5}}, "chance": 0.5, "images": images, "largest": ["a", largest],
             **({"counts": counts} if counts else {})}
    assert [flag for flag in sheets.flags(sheet) if "guessing" not in flag] == ([text] if text else [])


def test_flags_stand_in_the_sheet(folder: Path, tmp_path: Path) -> None:
    found = sheet(folder, tmp_path, protocol=DC(epochs=1, lr=1e-9, augment="none"))
    assert "no better than guessing" in found["flags"]
    (read,) = [s for s in sheets.read_sheets(folder) if s["protocol"] == found["protocol"]]
    assert read["flags"] == found["flags"]


def test_a_protocol_that_follows_the_network_is_kept_as_it_was_carried_out(folder: Path, tmp_path: Path) -> None:
    found = sheet(folder, tmp_path, protocol=load(ds.Protocol, "tuned:epochs=2"), trials=1)
    assert found["protocol"]["lr"] > 0
    (one,) = ds.evaluate(ds.load(folder), "tuned:epochs=2", tiny.splits().test, network=NETWORK, trials=1)
    assert one.accuracy == found["synthetic"][0]["accuracy"]


def soft(folder: Path) -> ds.Distilled:
    """The folder's set as if its labels were soft."""
    there = ds.load(folder)
    return ds.Distilled({**there.tensors, "labels": there.y * 0.8 + 0.02}, {**there.card, "labels": "soft"})


def test_random_images_get_labels_of_the_sets_kind(folder: Path, tmp_path: Path) -> None:
    images, protocol, seen = tiny.splits(), DC(epochs=2, lr=0.031, augment="none"), list[torch.Tensor]()

    def uniform(batch: ds.Batch) -> torch.Tensor:
        seen.append(batch.y)
        return torch.full_like(batch.y, 0.1)

    def score(labeler: ds.Labeler | None, of: ds.Distilled) -> dict[str, Any]:
        evaluation = Evaluation(protocol, NETWORK, images.train, images.test)
        return trials.score(folder, of, evaluation, baselines=tmp_path, trials=2, labeler=labeler)

    hard, labeled = score(None, soft(folder)), score(ds.Labeler("uniform", uniform), soft(folder))
    assert len(seen) == 2
    assert labeled["labels"] == {"synthetic": "soft", "random": "soft"}
    assert labeled["summary"]["random"]["mean"] < hard["summary"]["random"]["mean"]  # nothing can be learned from those
    assert any("random real images have hard ones" in flag for flag in hard["flags"])
    assert not any("hard ones" in flag for flag in labeled["flags"])
    assert len(list(tmp_path.glob("random-*.json"))) == 2
    score(ds.Labeler("uniform", uniform), ds.load(folder))
    assert len(seen) == 2  # a set with hard labels is compared under hard ones


def lopsided(images: ds.Images, keep: int) -> ds.Images:
    """Two classes, of the second only ``keep`` images."""
    rows = torch.cat([images.of_class[0], images.of_class[1][:keep]])
    return replace(images.subset(rows), classes=images.classes[:2])


def test_always_answering_the_largest_class_is_no_achievement(tmp_path: Path) -> None:
    splits = tiny.splits()
    train, test = lopsided(splits.train, 100), lopsided(splits.test, 2)
    ds.distill("random", train, tmp_path / "run", ipc=1, network=tiny.NETWORK)
    sheet = ds.score(tmp_path / "run", test, train=train, protocol="dc:epochs=1", trials=2, root=tmp_path)[tiny.NETWORK]
    name, share = sheet["largest"]
    assert (name, share) == ("0", len(test.of_class[0]) / len(test))
    assert sheet["chance"] == 0.5
    found = sheet["summary"]["synthetic"]
    shares = [one["per_class"] for one in sheet["synthetic"]]
    assert found["balanced"] == pytest.approx(sum(map(sum, shares)) / 4)
    assert 0 <= found["auroc"] <= 1
    assert sheet["counts"] == [len(rows) for rows in test.of_class]


def test_copies_in_a_set_are_said_wherever_it_is_shown(run_cli: Call, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "few.npz", x_train=rng.integers(0, 256, (12, 8, 8), dtype=np.uint8), y_train=np.arange(12) // 6)
    few = ("data.source=npz", f"data.path={tmp_path / 'few.npz'}", "data.size=8", "data.test=0.4", f"network={tiny.NETWORK}")
    code, _, err = run_cli("distill", "random/own-ipc10", *few, "with_replacement=true", "--out", "run")
    assert code == 0
    assert "caution: 12 of the 20 images of the set repeat another one" in err
    out = run_cli("evaluate", "run", "--trials", "1", "--protocol", "dc:epochs=1")[1]
    assert "12 of the set's images repeat another one" in out
    assert re.search(r"selected real images +\S* +\d", out)
    assert "protocol dc:epochs=1" in out
    run_cli("report", "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "12 of the set&#39;s images repeat another one" in page
    assert "20 of 1 × 8 × 8" in page



@pytest.mark.parametrize(("mean", "flagged"), [(0.95, True), (0.96, False), (0.7, True)])
def test_the_largest_class_is_flagged(mean: float, flagged: bool) -> None:
    found = sheets.flags({"summary": {"synthetic": {"mean": mean, "n": 5}}, "chance": 0.5, "images": 200, "largest": ["a", 0.95]})
    assert (found == ["no better than always answering the largest class (95.0 % of the images)"]) is flagged
    assert not sheets.flags({"summary": {"synthetic": {"mean": mean, "n": 5}}, "chance": 0.5, "images": 200, "largest": ["a", 0.5]})


@pytest.mark.parametrize(("balanced", "known"), [(0.824, True), (0.5, False), (0.55, False)])
def test_the_flag_of_the_largest_class_says_what_is_known_of_the_others(balanced: float, known: bool) -> None:
    [found] = sheets.flags({"summary": {"synthetic": {"mean": 0.665, "balanced": balanced, "n": 5}}, "chance": 0.5, "images": 200, "largest": ["a", 0.95]})
    assert found.startswith("no better than always answering the largest class (95.0 % of the images)")
    assert ("though balanced accuracy, 82.4 %, is above chance" in found) == known


def test_scores_of_a_set_that_cannot_be_written_to_are_stored_elsewhere(tmp_path: Path) -> None:
    tiny.distill(tiny.run(ipc=1), tmp_path / "run")
    before = sorted(str(path) for path in (tmp_path / "run").rglob("*"))
    workspace = ds.Workspace(tmp_path / "root", tmp_path)
    evaluation = Evaluation(load(ds.Protocol, "dc:epochs=1"), load(ds.Architecture, tiny.NETWORK), tiny.splits().train, tiny.splits().test)
    sheet = workspace.score(tmp_path / "run", evaluation, trials=1, out=tmp_path / "mine")
    assert sorted(str(path) for path in (tmp_path / "run").rglob("*")) == before
    assert [one["summary"] for one in sheets.read_sheets(tmp_path / "run", tmp_path / "mine")] == [sheet["summary"]]
    page = workspace.report([tmp_path / "run"], tmp_path / "page.html", scores=tmp_path / "mine").read_text()
    assert "balanced" in page
