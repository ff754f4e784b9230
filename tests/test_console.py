"""Progress: the time left for a piece of work, estimated from that piece alone."""

from __future__ import annotations

import io
import itertools
import re

import pytest
import torch
from rich.console import Console

from datastill import console
from datastill.data import Images
from datastill.errors import Stopped
from datastill.tables import per_class
from kit import Call


def test_time_left_is_of_the_piece_of_work_at_hand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    bar = console.Bar(None, None, "distill")
    for done in range(1, 11):  # teachers: 1000 s an epoch
        clock[0] += 1000
        bar.tell(done, 10, "preparing")
    for done in range(1, 41):  # iterations: 1 s each
        clock[0] += 1
        bar.tell(done, 500, "")
    lines = capsys.readouterr().err.splitlines()
    assert lines[4] == "distill: 5 of 10, preparing, about 83 min left"
    assert lines[-1] == "distill: 30 of 500, about 8 min left"


def test_it_stops_when_asked() -> None:
    bar = console.Bar(None, None, "distill")
    bar.tell(1, 2)
    bar.stop = 143
    with pytest.raises(Stopped) as caught:
        bar.part(0, 1).tell(1, 2)
    assert caught.value.code == 143


def test_a_run_that_goes_on_counts_from_where_it_was(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    bar = console.Bar(None, None, "distill")
    for done in range(401, 435):
        clock[0] += 1
        bar.tell(done, 500, "")
    assert capsys.readouterr().err.splitlines() == ["distill: 430 of 500, about 70 s left"]


@pytest.mark.parametrize(("counts", "text"), [
    ([3, 3, 3], "3"), ([3, 5], "a: 3, b: 5"), ([2, 0, 1, 1, 1, 1], "a: 2, b: 0, c: 1, d: 1, e: 1, f: 1"), ([4, 2, 9, 5, 5, 5, 5], "2 to 9")])
def test_images_per_class(counts: list[int], text: str) -> None:
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = Images(torch.zeros(len(targets), 1, 4, 4, dtype=torch.uint8), targets, tuple("abcdefg"[:len(counts)]), (0.5,), (0.5,))
    assert per_class(images.classes, images.counts) == text


@pytest.mark.parametrize("width", [40, 50, 80, 120])
def test_counts_are_seen_on_a_narrow_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Console(width=width, force_terminal=True, file=io.StringIO(), legacy_windows=False)
    monkeypatch.setattr(console, "err", shown)
    with console.progress("distill", "outputs/runs/distribution-tiny_imagenet-ipc10-0123456789abcdef") as bar:
        bar.tell(1234, 20000, "loss 12.34")
        assert bar.display is not None
        bar.display.refresh()
    assert "1234/20000" in shown.file.getvalue().replace(" ", "")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["mtt", "csv", "data", "tiny:Pull"])
def test_a_description_is_shown_in_words_that_fit_the_terminal(name: str, run_cli: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(console, "out", shown)
    assert run_cli("show", name)[0] == 0
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    for leaked in ("Union[", "Annotated", "Literal", "FieldInfo", "datastill.", "NoneType", "…", "None", "a generator of", "class of your own"):
        assert leaked not in text
    before = text.partition("┏")[0]
    lines = [line for line in before.splitlines() if line]
    for line, following in itertools.pairwise(lines):  # no line ends where the next word would fit
        new = re.match(r"(\S+, )*\S+: ", following) or len(line) + 1 + len(following.split()[0]) > 80
        assert new or f"{line}\n\n" in before, line
    if name == "mtt":
        assert "method mtt (trajectory: default settings)" in text
        assert "protocol mtt\n" in text
        assert re.search(r"│ lr +│ learned +│ number or learned +│", text)


@pytest.mark.parametrize(("against", "seeds"), [("", 1), ("plain", 1), ("plain", 3)])
def test_rows_of_a_study(against: str, seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Console(width=160, file=io.StringIO())
    monkeypatch.setattr(console, "out", shown)
    mean = {"mean": 0.25, "std": 0.01 if seeds > 1 else 0.0, "n": seeds}
    row = {"recipe": "dm/digits-ipc1", "arm": "a", "student": "mlp", "mean": mean, "gain": mean}
    difference = {"mean": 0.02, **({"low": 0.01, "high": 0.03} if seeds > 1 else {})}
    console.show_results({"question": "Which?", "against": against, "rows": [{**row, **({"difference": difference} if against else {})}],
                          "students": [{**row, "group": "all", "students": ["mlp", "vit"], **({"difference": difference} if against else {})}]})
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert ("25.0 ± 1.0" in text) == (seeds > 1)
    assert "25.0" in text
    assert ("vs. plain" in text) == bool(against)
    assert "vs. -" not in text
    assert "2 together" in text
    assert ("+1.0 to +3.0" in text) == (seeds > 1)
    assert ("one seed" in text) == (bool(against) and seeds == 1)
