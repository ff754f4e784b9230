"""The page as a whole: it shows what the folder holds, it is self-contained, and bad folders are reported."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import datastill as ds
from datastill import trials
from datastill.artifact import write_tensors
from datastill.data import Images
from datastill.description import load
from datastill.digest import dump
from datastill.errors import InputError
from datastill.protocols.dc import DC
from datastill.report import report, words
from datastill.report.page import collect
from datastill.rng import RNG
from datastill.scoring import Evaluation
from datastill.store import write_record
from kit import Call, input_error

CLASSES = ("<b>x</b>", "two", "three")
PROTOCOL = DC(augment="none", epochs=2)
PUBLISHED = {"accuracy": 48.9, "std": 0.6, "source": "Some <i>Table</i> 1", "recalled": True, "verified": False}
VOID = {"meta", "link", "img", "br", "wbr", "input", "hr"}


def images(seed: int) -> Images:
    """Random pixels of three classes, four images each."""
    pixels = (RNG(seed).uniform(12, 1, 8, 8) * 256).byte()
    return Images(pixels, torch.arange(12) % 3, CLASSES, (0.5,), (0.25,))


def make(folder: Path, table: dict[str, object], score: DC | None = PROTOCOL, **about: object) -> Path:
    """A tiny run with scores."""
    run = load(ds.Run, {"network": "convnet:width=4,depth=1", "ipc": 2, **table})
    ds.distill(run, replace(images(0), origin=run.data), folder, about=about)
    if score is not None:
        trials.score(folder, ds.load(folder), Evaluation(score, run.network, images(0), images(1), seed=4), trials=2,
                     baselines=folder.parent / "baselines", full=True)
    return folder


METHOD = {"kind": "distribution", "iterations": 3, "batch_real": 4, "augment": "none"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: one distilled with a plug-in and a published number, and one of selected images."""
    root = tmp_path_factory.mktemp("runs")
    make(root / "with tv", {"method": METHOD, "plugins": {"total_variation": {"weight": 0.5}},
                            "data": {"path": "/home/someone/pictures"}}, published=PUBLISHED, protocol=dump(PROTOCOL))
    make(root / "chosen", {"method": {"kind": "coreset"}, "seed": 7}, DC(augment="none", epochs=1))
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the first run, to be damaged."""
    return Path(shutil.copytree(made / "with tv", tmp_path / "copy"))


class Checked(HTMLParser):
    """Reads a page strictly: every tag closed in order, unique ids, what is loaded and linked, the plain text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.pieces: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []
        assert len(set(self.ids)) == len(self.ids)
        self.text = re.sub(r"\s+", " ", "".join(self.pieces))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "xlink:href"):
                self.links.append(value or "")
            if name in ("src", "srcset", "data", "poster", "action", "background"):
                self.loaded.append(value or "")
            if tag == "img" and name == "alt":
                assert value

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.pieces.append(data)


def page(*folders: Path, out: Path) -> tuple[str, Checked]:
    source = report(folders, out).read_text(encoding="utf-8")
    return source, Checked(source)


def test_page_loads_nothing(made: Path, tmp_path: Path) -> None:
    source, checked = page(made / "with tv", made / "chosen", out=tmp_path / "page.html")
    assert "http://" not in source
    assert "https://" not in source
    assert "@import" not in source
    assert not {"script", "link", "iframe", "object", "embed"} & set(checked.tags)
    assert checked.loaded
    assert all(one.startswith("data:image/png;base64,") for one in checked.loaded)
    assert set(re.findall(r"url\(([^)]*)\)", source)) <= {f"#{one}" for one in checked.ids}
    assert {one for one in checked.links if one.startswith("#")} == set(checked.links)
    assert {one[1:] for one in checked.links} <= set(checked.ids)


def test_numbers_are_those_of_the_sheet(made: Path, tmp_path: Path) -> None:
    _, checked = page(made / "with tv", out=tmp_path / "page.html")
    (sheet,) = [json.loads(path.read_text()) for path in (made / "with tv" / "scores").glob("*.json")]
    found = sheet["summary"]

    def one(value: float) -> str:
        return f"{100 * value:.1f}".replace("-", "−")

    assert (f"Students trained on these 6 images reach {one(found['synthetic']['mean'])} % "
            f"(±{one(found['synthetic']['std'])}), those trained on as many random real images {one(found['random']['mean'])} % "
            f"(±{one(found['random']['std'])}); chance is 33.3 %.") in checked.text
    gain = found["gain"]
    assert f"95 % interval {one(gain['low'])} to {one(gain['high'])}, 2 trials." in checked.text
    assert f"{one(found['full']['mean'])} (1 trial)" in checked.text
    per_class = [sum(t["per_class"][1] for t in sheet[subject]) / 2 for subject in ("synthetic", "random")]
    assert f"two {one(per_class[0])} % ({one(per_class[1])} %)" in checked.text
    assert "48.9 % (±0.6). Source: Some <i>Table</i> 1. The number is recalled" in checked.text


def test_text_from_outside_is_escaped(made: Path, tmp_path: Path) -> None:
    source, checked = page(made / "with tv", out=tmp_path / "page.html")
    assert "<b>" not in source
    assert "<i>Table" not in source
    assert "<b>x</b>" in checked.text


def test_shows_what_was_run_and_how_to_reproduce_it(made: Path, tmp_path: Path) -> None:
    _, checked = page(made / "with tv", out=tmp_path / "page.html")
    card = ds.load(made / "with tv").card
    assert "DM + total_variation on digits, 2 images per class" in checked.text
    assert "iterations 3 default 20000" in checked.text
    assert "weight 0.5 default 1" in checked.text
    assert card["digest"] in checked.text
    assert card["data"]["fingerprint"] in checked.text
    assert "datastill distill 'with tv/run.toml' --out 'with tv'" in checked.text
    assert ("datastill evaluate 'with tv' --network convnet:width=4,depth=1 --protocol dc:epochs=2,augment=none "
            "--trials 2 --seed 4 --full") in checked.text
    assert "gradient shares at iteration 1: method" in checked.text.lower()


def test_no_local_path_on_the_page(made: Path, tmp_path: Path) -> None:
    source, checked = page(made / "with tv", out=tmp_path / "page.html")
    assert str(made) not in source
    assert "/home/someone" not in source
    assert "…/pictures" in checked.text


def test_several_runs_are_compared(made: Path, tmp_path: Path) -> None:
    source, checked = page(made / "with tv", made / "chosen", out=tmp_path / "page.html")
    assert checked.tags.count("h1") == 1
    assert re.findall(r'<a href="#run-(\d)">([^<]*)</a>', source) == [("1", "with tv"), ("2", "chosen")]
    assert "not all measured in the same way" in checked.text
    assert "These are the images the run started from" in checked.text
    assert "Nothing was optimized" in checked.text


def test_several_runs_and_students_make_a_matrix(made: Path, folder: Path, tmp_path: Path) -> None:
    mlp = load(ds.Architecture, "mlp:width=8")  # type: ignore[type-abstract]
    sheet = trials.score(folder, ds.load(folder), Evaluation(PROTOCOL, mlp, images(0), images(1)), trials=2,
                         baselines=tmp_path / "baselines")
    text, checked = page(folder, made / "chosen", out=tmp_path / "page.html")
    assert "By kind of student: dc:epochs=2,augment=none, test split of digits" in checked.text
    assert "chance is 33.3 %" in checked.text
    assert text.count(">distilled with<") == 1
    assert words.row(sheet).synthetic in checked.text
    assert "By kind of student" not in page(folder, out=tmp_path / "one.html")[1].text


def test_works_without_scores_log_and_snapshots(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "scores")
    shutil.rmtree(folder / "snapshots")
    (folder / "log.jsonl").unlink()
    _, checked = page(folder, out=tmp_path / "page.html")
    assert "Not scored yet" in checked.text
    assert "has no snapshot of the start" in checked.text
    assert "The run's folder has no log." in checked.text


def test_works_for_a_run_this_installation_cannot_load(folder: Path, tmp_path: Path) -> None:
    from datastill.artifact import write
    card = ds.load(folder).card
    run = load(ds.Run, card["run"])
    task = run.task(images(0))
    card["run"]["method"]["kind"] = "no_such_package.methods:Mine"
    about = {key: card[key] for key in ("run", "digest", "ipc", "data")}
    write(folder, run.method.start(task, 2, RNG(0)), about)
    _, checked = page(folder, out=tmp_path / "page.html")
    assert "Mine + total_variation on digits" in checked.text
    assert "This installation cannot load the run's description" in checked.text
    assert "iterations 3 " in checked.text


def test_page_is_a_function_of_the_folders(made: Path, tmp_path: Path) -> None:
    first = report([made / "with tv"], tmp_path / "deep" / "a.html")
    second = report([made / "with tv"], tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["a.html"]


def edit_sheet(folder: Path) -> None:
    (path,) = (folder / "scores").glob("*.json")
    path.write_text(path.read_text().replace('"accuracy"', '"accurate"', 1))


def without_protocol(folder: Path) -> None:
    (path,) = (folder / "scores").glob("*.json")
    sheet = json.loads(path.read_text())
    del sheet["protocol"]
    write_record(path, sheet)


def other_tensors(folder: Path) -> None:
    from safetensors.torch import save_file
    save_file({"other": torch.zeros(1)}, folder / "snapshots" / "000000.safetensors")


DAMAGE = {
    "tensors": (lambda folder: (folder / "synthetic.safetensors").write_bytes(b"x"), "synthetic.safetensors is damaged"),
    "no card": (lambda folder: (folder / "card.json").unlink(), "has not finished"),
    "card": (lambda folder: (folder / "card.json").write_text("{}"), "card.json is damaged"),
    "scores": (lambda folder: next((folder / "scores").glob("*.json")).write_text("{"), r"\.json is damaged .*delete it to score again"),
    "edited sheet": (edit_sheet, r"\.json is damaged or was edited: its checksum does not match; delete it to score again"),
    "sheet": (without_protocol, "not a readable score file"),
    "snapshot": (lambda folder: (folder / "snapshots/000000.safetensors").write_bytes(b"x"), "000000.safetensors is damaged"),
    "tensor": (other_tensors, "000000.safetensors is damaged or not a snapshot"),
    "log": (lambda folder: (folder / "log.jsonl").write_text('{"iteration": 1, "loss": "x"}\n'), "log.jsonl is damaged"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_folder_is_named(folder: Path, tmp_path: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        report([folder], tmp_path / "page.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "page.html").exists()


def test_bad_arguments(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run folder given, expected one or more"):
        report([], tmp_path / "page.html")
    with pytest.raises(InputError, match="holds no distilled set"):
        report([tmp_path / "nowhere"], tmp_path / "page.html")
    with pytest.raises(InputError, match="is a folder, expected the name of an HTML file"):
        report([made / "chosen"], tmp_path)
    for scores in (tmp_path / "nowhere", tmp_path):
        with input_error(str(scores), "holds no scores of", "evaluate --out"):
            report([made / "chosen"], tmp_path / "page.html", scores=scores)


def test_unchanged_start_is_shown_once(folder: Path, tmp_path: Path) -> None:
    both = Checked(report([folder], tmp_path / "page.html").read_text()).tags.count("img")
    run = load(ds.Run, ds.load(folder).card["run"])
    done = ds.load(folder)
    same = ds.SyntheticSet({"pixels": done.x}, done.y, images(0), run.parametrization)
    write_tensors(folder / "snapshots" / "000000.safetensors", same)
    once = Checked(report([folder], tmp_path / "page.html").read_text()).tags.count("img")
    assert (both, once) == (12, 6)


def test_teachers_and_the_paired_gain_of_plugins(tmp_path: Path) -> None:
    pool = {"networks": ["convnet:width=4,depth=1"], "count": 2, "epochs": 1, "validation": 0.34}
    for name, plugins in (("plain", {}), ("guided", {"clom": {"weight": 3.0, "pool": pool}})):
        run = load(ds.Run, {"network": "convnet:width=4,depth=1", "ipc": 2, "method": METHOD, "plugins": plugins})
        ds.distill(run, images(0), tmp_path / name, root=tmp_path)
        trials.score(tmp_path / name, ds.load(tmp_path / name), Evaluation(PROTOCOL, run.network, images(0), images(1), seed=4),
                     trials=3, baselines=tmp_path / "baselines")
    page = report([tmp_path / "guided"], tmp_path / "one.html").read_text()
    facts = ds.load(tmp_path / "guided").card["prepared"]["clom"]["teachers"]
    assert [one["digest"] in page for one in facts] == [True, True]
    assert words.number(100 * facts[0]["accuracy"]) in page
    both = report([tmp_path / "plain", tmp_path / "guided"], tmp_path / "both.html").read_text()
    assert "clom (weight 3)" in both
    assert "3 students of one seed" in both
    assert "Teachers" not in report([tmp_path / "plain"], tmp_path / "two.html").read_text()


def test_commands_name_the_folder_from_here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    place = f"{folder.parent.name}/{folder.name}"
    assert collect(folder, "f0").commands[-1].startswith(f"datastill evaluate {shlex.quote(place)}")
    assert f"datastill.load({place!r})" in collect(folder, "f0").python
    monkeypatch.chdir(tmp_path.root)  # the folders above it are no one's business
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert collect(folder, "f0").commands[-1].startswith(f"datastill evaluate {shlex.quote(folder.name)}")


def test_on_a_narrow_screen_every_score_has_its_heading(folder: Path, tmp_path: Path) -> None:
    text = report([folder], tmp_path / "page.html").read_text(encoding="utf-8")
    table = text[text.index('<table class="scores">'):text.index("</table>")]
    assert table.count("<td") == table.count("data-label=") > 6
    assert re.search(r"@media screen and \(max-width: 44rem\) \{[^@]*\.scores td::before \{ content: attr\(data-label\)", text)


def photos(root: Path, classes: dict[str, int], splits: tuple[str, ...]) -> Path:
    """A folder of noise, with a file that is left out."""
    for number, (split, name) in enumerate((split, name) for split in splits for name in classes):
        (root / split / name).mkdir(parents=True)
        for seed in range(classes[name]):
            pixels = np.random.default_rng([number, seed]).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / name / f"{seed}.png")
    (root / splits[0] / next(iter(classes)) / "notes.doc").write_bytes(b"x")
    return root


def test_the_page_says_what_the_data_are_and_how_they_were_split(tmp_path: Path, run_cli: Call) -> None:
    photos(tmp_path / "parts", {"ok": 30, "defect": 5}, ("train", "test"))
    photos(tmp_path / "pets", {"cat": 5, "dog": 5}, ("",))
    small = ("network=convnet:width=4,depth=1", "method.iterations=2", "data.size=8", "protocol.epochs=1")
    for name in ("parts", "pets"):
        out = run_cli("distill", "dm/own-ipc1", f"data.path={tmp_path / name}", *small, "--out", f"{name}-run")
        assert out[0] == run_cli("evaluate", f"{name}-run", "--trials", "2")[0] == 0, out
    _, parts = page(tmp_path / "parts-run", out=tmp_path / "page.html")
    assert "DM on parts, 1 image per class" in parts.text
    assert "training images per class defect: 5, ok: 30 test images per class defect: 5, ok: 30 caution left out: .doc: 1" in parts.text
    assert "held out by datastill" not in parts.text
    assert "test 0.2" not in parts.text  # a setting that does nothing here
    assert "validation 0" not in parts.text
    assert "with random real images" in parts.text
    assert re.search(r"defect \d+.\d % \(\d+.\d %\), 5 images", parts.text)
    _, pets = page(tmp_path / "pets-run", out=tmp_path / "page.html")
    assert "test images per class 1; held out by datastill at random, 20.0 % of each class" in pets.text
    assert "test 0.2" in pets.text
    source, both = page(tmp_path / "parts-run", tmp_path / "pets-run", out=tmp_path / "page.html")
    assert "differ in their data" in both.text
    for text in (">parts<", ">pets<", "largest class 85.7", "measured on 2 images"):
        assert text in source
    assert str(tmp_path) not in source


def test_what_the_page_tells_of_a_guided_run(tmp_path: Path, run_cli: Call) -> None:
    guided = [f"plugins.clom.{one}" for one in ("pool.networks=mlp:width=4", "pool.count=1", "pool.epochs=1", "weight=1")]
    run_cli("distill", "dm/digits-ipc1", "network=convnet:width=4,depth=1", "method.iterations=2", *guided, "--out", "out/guided")
    found = collect(tmp_path / "out" / "guided", "f0")
    distill = shlex.split(found.commands[0])[1:]
    assert distill[:2] == ["distill", "out/guided/run.toml"]
    assert run_cli(*distill)[0] == 0
    assert "without the time of loading and of training or reading teachers" in dict(found.facts)["distilled in"]
    _, checked = page(tmp_path / "out" / "guided", out=tmp_path / "page.html")
    assert "accuracy on heldouttraining images, %" in checked.text.replace("-", "")
