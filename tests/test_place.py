"""A place: devices, folders, data loaded once, also in another process."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

import tiny
from datastill import Data
from datastill.executors import InProcess, Processes
from datastill.place import Place, find_device, images_of
from kit import input_error


def test_data_is_loaded_once_and_the_last_two_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load = Data.load
    monkeypatch.setattr(Data, "load", lambda self, root: (loaded.append((self.size, root)), load(self, root))[1])
    place = Place(tmp_path, tmp_path / "data", "cpu")
    sets = [tiny.run().data.model_copy(update={"size": size}) for size in (8, 9, 10)]
    for data in (*sets[:2], *sets[:2], sets[2], sets[1], sets[0]):
        place.load(data)
    assert loaded == [(size, tmp_path / "data") for size in (8, 9, 10, 8)]
    assert place.on(torch.device("meta")).load(sets[0]) is place.load(sets[0])
    assert len(loaded) == 4


def test_folders(tmp_path: Path) -> None:
    place, run = Place(tmp_path, ".", "cpu"), tiny.run()
    assert place.run_folder(run) == tmp_path / "runs" / run.label(tiny.splits().train)
    assert place.baselines == tmp_path / "baselines"
    assert place.study_folder("mine") == tmp_path / "studies" / "mine"
    task = place.check(run)
    assert (task.root, task.data_root, task.context.root) == (tmp_path, Path(), tmp_path)


def test_devices() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device() == Place().device
    with input_error("--device quantum: expected cpu, cuda, cuda:1 or mps"):
        find_device("quantum")
    for name in ("cuda:99", "mps"):
        if name != "mps" or not torch.backends.mps.is_available():
            with input_error(f"--device {name}: ", "; available here: cpu"):
                find_device(name)


def test_what_torch_says_of_a_device_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise NotImplementedError("Could not run it. " + "This could be because of everything. " * 99)

    monkeypatch.setattr(torch, "zeros", fail)
    with input_error("--device mps: NotImplementedError: Could not run it; available here: cpu"):
        find_device("mps")


@pytest.mark.parametrize(("asked", "wanted"), [(None, ["cuda:0", "cuda:1"]), ("cuda", ["cuda:0", "cuda:1"]), ("cuda:1", ["cuda:1"]),
                                               ("cpu", ["cpu"])])
def test_processes_share_all_gpus_unless_one_was_asked_for(asked: str | None, wanted: list[str],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    found = torch.device("cuda:0" if asked in (None, "cuda") else str(asked))
    monkeypatch.setattr("datastill.place.find_device", lambda name: found)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    place = Place(device=asked)
    several, one = place.executor(3), place.executor()
    assert isinstance(several, Processes)
    assert [str(device) for device in several.devices] == wanted
    assert isinstance(one, InProcess)
    assert one.device == found


def test_another_process_has_one_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datastill.place.find_device", None)  # would be called where a device is looked for too early
    sent = pickle.dumps(Place(tmp_path, tmp_path, "cuda"))
    first, second = pickle.loads(sent), pickle.loads(sent)
    assert first is second
    assert (first.root, first.data_root, first.asked) == (tmp_path, tmp_path, "cuda")


def test_the_images_of_a_split() -> None:
    splits = tiny.splits()
    assert images_of(splits, "test") is splits.test
    assert images_of(splits, "validation") is splits.validation
    with input_error("no images are held out", "data.validation=0.1"):
        images_of(splits._replace(validation=None), "validation")
    with input_error("expected test or validation, got 'train'"):
        images_of(splits, "train")
