"""The distilled set on disk: whole or refused, readable without this library."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

import datastill as ds
import tiny
from datastill import artifact, store
from datastill.errors import InputError
from kit import input_error

ABOUT = {"run": {"method": {"kind": "dm"}, "data": {}, "network": {"kind": "mlp"}, "plugins": {}, "seed": 0}, "digest": "0", "data": {"name": "digits", "fingerprint": "0"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.distill(tiny.run(ipc=2), tmp_path / "run", about={"protocol": {"kind": "dc"}})
    return tmp_path / "run"


def test_is_a_torch_data_set_with_its_card(folder: Path) -> None:
    data = ds.load(folder)
    x, y = next(iter(DataLoader(data, batch_size=20)))
    assert x.shape == (20, 1, 8, 8)
    assert x.dtype == torch.float32
    assert y.tolist() == [c for c in range(10) for _ in range(2)]
    assert data.classes == tuple("0123456789")
    assert data.card["ipc"] == 2
    assert data.card["run"]["method"]["kind"] == "distribution"
    assert data.card["protocol"] == {"kind": "dc"}


def test_is_readable_without_the_library(folder: Path) -> None:
    tensors = load_file(folder / "synthetic.safetensors")
    card = json.loads((folder / "card.json").read_text())
    shown = (tensors["images"] * torch.tensor(card["std"]).view(1, -1, 1, 1) + torch.tensor(card["mean"]).view(1, -1, 1, 1))
    want = (shown.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    assert (want.int() - tensors["view"].int()).abs().max() <= 1
    assert tensors["labels"].shape == (20, 10)
    assert (card["classes"], card["labels"], card["count"], card["shape"]) == (list("0123456789"), "hard", 20, [1, 8, 8])
    with Image.open(folder / "preview.png") as preview:
        assert preview.width < preview.height  # ten rows of two


@pytest.mark.parametrize("name", ["synthetic.safetensors", "preview.png", "card.json"])
@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_flipped_bit_is_found_and_named(folder: Path, name: str, where: float) -> None:
    content = bytearray((folder / name).read_bytes())
    content[int(where * len(content))] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} is damaged"):
        ds.load(folder)


def test_flipped_bit_is_found_when_the_run_is_asked_for_again(folder: Path) -> None:
    content = bytearray((folder / "synthetic.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "synthetic.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        tiny.distill(tiny.run(ipc=2), folder)


def test_foreign_pickle_is_never_opened(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (folder / "owned",))

    (folder / "synthetic.safetensors").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match=r"synthetic\.safetensors"):
        ds.load(folder)
    with pytest.raises(InputError, match="it cannot be read as safetensors"):
        artifact.read_tensors(folder / "synthetic.safetensors")
    assert not (folder / "owned").exists()


def test_missing_file_unfinished_run_and_no_artifact(folder: Path, tmp_path: Path) -> None:
    (folder / "preview.png").unlink()
    with pytest.raises(InputError, match=r"preview\.png is missing"):
        ds.load(folder)
    (folder / "card.json").unlink()
    with pytest.raises(InputError, match="a run that has not finished; run it again"):
        ds.load(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no distilled set: expected card\.json"):
        ds.load(tmp_path / "empty")


@pytest.mark.parametrize("schema", [1, 2])
def test_another_finished_folder_is_no_set(tmp_path: Path, schema: int) -> None:
    store.Entry(tmp_path, "").finish({"schema": schema, "kind": "datastill.teacher"})
    with input_error(str(tmp_path), "no distilled set but a datastill.teacher", "name the folder of a finished run"):
        ds.load(tmp_path)


@pytest.mark.parametrize(("key", "value", "says"), [
    ("schema", None, "schema"), ("run", None, "run is missing"), ("run", 3, "run: "), ("run.data", 0, "run.data: "), ("files", 0, "files: "),
    ("versions", 0, "versions: "), ("data", 0, "data: "), ("data.fingerprint", None, "data.fingerprint is missing"), ("protocol", 5, "protocol: "),
    ("digest", None, "digest is missing"), ("learning_rate", "fast", "learning_rate: "), ("published", {"std": 1}, "published.accuracy is missing"),
    ("classes", None, "classes is missing"), ("classes", ["a", "b"], "names 2 classes, the labels are of 10"), ("recipe", 7, "recipe: ")])
def test_a_card_in_another_form_is_named(folder: Path, key: str, value: object, says: str) -> None:
    card = json.loads((folder / "card.json").read_text())
    table, last = (card, key) if "." not in key else (card[key.partition(".")[0]], key.partition(".")[2])
    table[last] = value
    if value is None:
        del table[last]
    store.write_record(folder / "card.json", {name: one for name, one in card.items() if name != "checksum"})
    with input_error(str(folder / "card.json"), says, "restore it from a copy"):
        ds.load(folder)


def test_soft_labels_and_step_size_come_back(tmp_path: Path) -> None:
    task = tiny.task(tiny.run())
    logits = torch.randn(10, 10, generator=torch.Generator().manual_seed(0))
    start = task.random_real(1, ds.RNG(0))
    synthetic = task.synthetic(start._replace(y=logits), soft=True, lr=0.03)
    artifact.write(tmp_path, synthetic, {"ipc": 1, **ABOUT})
    data = ds.load(tmp_path)
    torch.testing.assert_close(data[3][1], logits[3].softmax(0))
    assert data.card["labels"] == "soft"
    assert data.lr == pytest.approx(0.03)
    assert data.card["learning_rate"] == pytest.approx(0.03)


def test_parameters_are_stored_where_they_are_not_the_images(tmp_path: Path) -> None:
    class Halved(ds.Parametrization):
        def encode(self, start: ds.Batch, task: ds.Task, rng: ds.RNG) -> dict[str, torch.Tensor]:
            return {"half": start.x / 2}

        def decode(self, parameters: Any, rows: Any = None) -> torch.Tensor:
            return parameters["half"] * 2

    task = ds.Task(tiny.splits().train, ds.find(ds.Architecture, "mlp")(), Halved())
    synthetic = task.synthetic(task.random_real(1, ds.RNG(0)))
    tensors = artifact.tensors_of(synthetic)
    torch.testing.assert_close(tensors["parameters.half"] * 2, tensors["images"])


@pytest.mark.parametrize(("classes", "ipc", "side"), [(1000, 10, 64), (1000, 1, 8), (200, 50, 64), (100, 10, 32), (1200, 1, 224), (10, 1, 2500)])
def test_a_preview_of_many_classes_is_a_page(classes: int, ipc: int, side: int) -> None:
    target = torch.arange(classes).repeat_interleave(ipc)
    view = (target % 251).byte().view(-1, 1, 1, 1).expand(-1, side, side, 1)
    page = artifact.picture(view, torch.nn.functional.one_hot(target, classes))
    assert max(page.size) <= artifact.SIDE
    assert max(page.size) < 2 * min(page.size) or classes < 20
    assert len(set(page.tobytes())) >= min(classes, 200)  # every class is on it


def test_a_preview_of_few_classes_is_a_row_for_each() -> None:
    target = torch.arange(10).repeat_interleave(12)
    page = artifact.picture(torch.zeros(120, 32, 32, 3, dtype=torch.uint8), torch.nn.functional.one_hot(target, 10))
    assert page.size == (10 * 66 + 2, 10 * 66 + 2)


@pytest.mark.parametrize("parametrization", ["pixels", "quarters:Quarters"])
def test_tensors_in_pieces_give_the_same_file(tmp_path: Path, parametrization: str) -> None:
    run = tiny.run(parametrization=parametrization, ipc=2)
    task = tiny.task(run)
    synthetic = task.synthetic(task.random_real(2, ds.RNG(0)), lr=0.25)
    artifact.write_tensors(tmp_path / "whole", synthetic, run="abc", iteration=3)
    tensors = artifact.tensors_of(synthetic)
    pieces = {name: artifact.Pieces([value], ()) if not value.dim() else artifact.joined(value.split(3)) for name, value in tensors.items()}
    artifact.write_joined(tmp_path / "pieces", pieces, run="abc", iteration=3)
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()


def test_large_sets_are_mapped_and_only_batches_move(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ds.load(folder)
    assert not small.mapped
    monkeypatch.setattr(artifact, "MAPPED", 1000)
    large = ds.load(folder)
    assert large.mapped
    assert torch.equal(large.x, small.x)
    moved = large.to(torch.device("meta"))
    assert (moved.device.type, moved.x.device.type) == ("meta", "cpu")
    assert moved.batch(torch.tensor([3, 1])).x.device.type == "meta"
    assert torch.equal(large.batch(torch.tensor([3, 1])).x, small.x[[3, 1]])
    path = folder / "synthetic.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with input_error("synthetic.safetensors is damaged"):
        ds.load(folder)
    path.write_bytes(b"\xff" * 2000)
    with input_error("it cannot be read as safetensors"):
        artifact.read_tensors(path)
