"""Every byte that is read back is checked: a flipped one is named, or it is one that says nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill import artifact, checkpoint, sheets
from datastill.digest import dump
from datastill.errors import InputError, Stopped
from datastill.run import read_run
from datastill.tables import read_toml
from kit import Told

NAMES = ["run.toml", "card.json", "log.jsonl", "preview.png", "synthetic.safetensors", "snapshots/000000.safetensors",
         "snapshots/000003.safetensors", "scores/sheet.json"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed") / "run"
    tiny.distill(tiny.run(ipc=1), folder, about={"protocol": {"kind": "dc"}})
    splits = tiny.splits()
    ds.score(folder, splits.test, train=splits.train, protocol="dc:epochs=1", trials=1, root=folder.parent)
    (sheet,) = (folder / "scores").glob("*.json")
    sheet.rename(folder / "scores" / "sheet.json")
    return folder


def everything(folder: Path) -> list[Any]:
    """All that commands read from the folder of a run."""
    found = ds.load(folder)
    tensors = [found.tensors, *(artifact.read_snapshot(path, found.card) for path in artifact.snapshots(folder).values())]
    return [found.card, dump(read_run(folder)), checkpoint.read_log(folder), sheets.read_sheets(folder),
            [{name: value.tolist() for name, value in one.items()} for one in tensors]]


def outcome(work: Callable[[], list[Any]]) -> tuple[list[Any] | None, str]:
    """What it returned, or the one line it failed with."""
    try:
        return work(), ""
    except InputError as error:
        return None, str(error) if "\n" not in str(error) else ""


def flipped(path: Path, byte: int, mask: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= mask
    path.write_bytes(content)


@pytest.mark.parametrize("name", NAMES)
def test_every_flipped_byte_is_found_or_harmless(made: Path, tmp_path: Path, name: str) -> None:
    before, size = everything(made), (made / name).stat().st_size
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    found = 0
    places = sorted({*range(0, min(size, 12)), *range(0, size, max(1, size // 25)), *range(size - 6, size)})
    for byte in places:
        shutil.copy(made / name, folder / name)
        flipped(folder / name, byte, 1 << byte % 7)
        after, said = outcome(lambda: everything(folder))
        assert after == before or Path(name).name in said, f"byte {byte} of {name}: {said}"
        found += after is None
    assert found > len(places) / 2


@pytest.mark.parametrize("name", ["run.toml", "log.jsonl", "state.pt", "snapshots/000000.safetensors"])
def test_damage_to_an_unfinished_run_is_found_or_harmless(tmp_path: Path, name: str) -> None:
    run = tiny.run(ipc=1, method=tiny.method("distribution", iterations=6))
    with pytest.raises(Stopped):
        tiny.distill(run, tmp_path / "part", progress=Told(stop_at=4))
    whole = tiny.distill(run, tmp_path / "whole")
    for part in (0.02, 0.3, 0.6, 0.98):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "part", tmp_path / "copy")
        path = tmp_path / "copy" / name
        flipped(path, int(part * path.stat().st_size), 4)
        resumed, said = outcome(lambda: [tiny.distill(run, tmp_path / "copy"), *everything(tmp_path / "copy")])
        assert path.name in said if resumed is None else torch.equal(resumed[0].x, whole.x)


def test_a_lost_line_of_the_log_is_found(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    lines = (folder / "log.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "log.jsonl").write_bytes(lines[0] + lines[2])
    with pytest.raises(InputError, match=r"log\.jsonl is damaged at line 2; restore it from a copy, or delete it"):
        checkpoint.read_log(folder)


def test_a_snapshot_of_another_run_or_iteration_is_refused(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    card = artifact.read_card(folder)
    shutil.copy(made / "snapshots/000003.safetensors", folder / "snapshots/000000.safetensors")
    with pytest.raises(InputError, match=r"is the snapshot of iteration 3 of run .* expected iteration 0"):
        artifact.read_snapshot(folder / "snapshots/000000.safetensors", card)


def test_an_edited_run_toml_says_how_to_use_it_as_a_recipe(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    text = (made / "run.toml").read_text()
    path.write_text(text.replace("seed = 0", "seed = 1"))
    with pytest.raises(InputError, match=r"damaged or was edited: .* delete its line checksum to use it as a recipe"):
        read_toml(path)
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("checksum")))
    assert read_toml(path)["seed"] == 1
