"""Executors: results by name, errors reach the caller, processes do the same as one after the other, each on its device."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from datastill.errors import RunError, Stopped
from datastill.executors import Executor, InProcess, Processes
from datastill.progress import Progress, log, of_data
from kit import Told

CPU = torch.device("cpu")
EXECUTORS = [InProcess(CPU), Processes(2, [CPU])]
ITEMS = {"one": 1.0, "two": 4.0, "three": 9.0}


def root(item: float, device: torch.device, progress: Progress) -> float:
    return math.sqrt(item)


def meet(item: tuple[Path, int], device: torch.device, progress: Progress) -> tuple[int, str]:
    """Waits until so many processes are here at the same time; returns its own and its device."""
    folder, count = item
    (folder / str(os.getpid())).touch()
    _until(lambda: len(list(folder.iterdir())) == count)
    return os.getpid(), str(device)


@pytest.mark.usefixtures("quick_processes")
@pytest.mark.parametrize("executor", EXECUTORS)
def test_results_by_name_in_order(executor: Executor) -> None:
    told = Told()
    found = executor.map(root, ITEMS, told)
    assert list(found.items()) == [("one", 1.0), ("two", 2.0), ("three", 3.0)]
    assert told.steps == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.usefixtures("quick_processes")
@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_error_ends_it(executor: Executor) -> None:
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        executor.map(root, {"a": 1.0, "b": -1.0, "c": 4.0})


def be_killed(item: float, device: torch.device, progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where the memory is full


@pytest.mark.usefixtures("quick_processes")
def test_a_process_that_was_killed_is_said() -> None:
    with pytest.raises(RunError, match="a process that worked on a part was ended from outside"):
        Processes(2, [CPU]).map(be_killed, ITEMS)


@pytest.mark.usefixtures("quick_processes")
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_stop_ends_it(executor: Executor) -> None:
    with pytest.raises(Stopped):
        executor.map(root, ITEMS, Told(stop_at=1))


def go_on(item: Path, device: torch.device, progress: Progress) -> None:
    """Long work that keeps what it did when it is stopped."""
    for step in range(600):
        try:
            progress.tell(step, 600)
        except Stopped:
            item.write_text(f"saved at step {step}")
            raise
        item.with_suffix(".begun").touch()
        time.sleep(0.1)


@pytest.mark.usefixtures("quick_processes")
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_stop_reaches_what_is_in_work(executor: Executor, tmp_path: Path) -> None:
    class Asked(Told):
        def check(self) -> None:
            if list(tmp_path.glob("*.begun")):
                raise Stopped(code=143)

    began = time.monotonic()
    with pytest.raises(Stopped):
        executor.map(go_on, {name: tmp_path / name for name in "abc"}, Asked())
    assert time.monotonic() - began < 30
    begun = {path.stem for path in tmp_path.glob("*.begun")}
    assert begun
    assert "c" not in begun
    assert {path.name for path in tmp_path.iterdir() if not path.suffix} == begun


def fail_or_go_on(item: Path, device: torch.device, progress: Progress) -> None:
    if item.name == "a":
        _until(item.with_name("b.begun").exists)
        raise RunError("no")
    go_on(item, device, progress)


@pytest.mark.usefixtures("quick_processes")
def test_an_error_stops_what_is_in_work(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no"):
        Processes(2, [CPU]).map(fail_or_go_on, {name: tmp_path / name for name in "ab"})
    assert (tmp_path / "b").read_text().startswith("saved at step")


def hang(item: Path, device: torch.device, progress: Progress) -> None:
    (item / str(os.getpid())).touch()
    time.sleep(60)


@pytest.mark.usefixtures("quick_processes")
def test_interrupted_while_it_waits_it_ends_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second Ctrl-C does not wait for work that does not look whether it should stop."""
    class Asked(Told):
        def check(self) -> None:
            if len(list(tmp_path.iterdir())) == 2:
                raise Stopped

    def interrupted(pool: object, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if cancel_futures:
            raise KeyboardInterrupt
        shutdown(pool, wait)

    shutdown = ProcessPoolExecutor.shutdown
    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Processes(2, [CPU]).map(hang, {"a": tmp_path, "b": tmp_path}, Asked())
    assert not any(_alive(int(path.name)) for path in tmp_path.iterdir())


def test_a_signal_to_all_is_answered_by_the_first(tmp_path: Path) -> None:
    """A terminal or a scheduler sends it to the whole group."""
    (tmp_path / "script.py").write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from datastill.errors import Stopped\n"
        "from datastill.executors import Processes\n"
        "from datastill.options import Interrupt\n"
        "from datastill.console import Bar\n"
        "from test_executors import go_on\n"
        "if __name__ == '__main__':\n"
        "    bar = Bar(None, None, 'work')\n"
        "    try:\n"
        "        with Interrupt(bar):\n"
        "            Processes(2, [torch.device('cpu')]).map(go_on, {name: Path(name) for name in 'abc'}, bar)\n"
        "    except Stopped as error:\n"
        "        raise SystemExit(error.code)\n")
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True,
                              env={**os.environ, "PYTHONPATH": paths})
    try:
        _until(lambda: len(list(tmp_path.glob("*.begun"))) == 2)
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.wait(60) == 128 + signal.SIGINT
        assert len([path for path in tmp_path.iterdir() if not path.suffix]) == 2
    finally:
        parent.kill()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_nothing_to_do(executor: Executor) -> None:
    assert executor.map(root, {}) == {}


@pytest.mark.parametrize(("devices", "wanted"), [(["cuda:0", "cuda:1"], ["cuda:0", "cuda:1", "cuda:0"]), (["cpu"], ["cpu"] * 3)])
def test_devices_are_dealt_in_turn(devices: list[str], wanted: list[str], tmp_path: Path) -> None:
    found = Processes(3, [torch.device(name) for name in devices]).map(meet, {str(n): (tmp_path, 3) for n in range(3)})
    assert len({process for process, _ in found.values()}) == 3
    assert sorted(device for _, device in found.values()) == sorted(wanted)


def heard(item: tuple[Path, int], device: torch.device, progress: Progress) -> list[bool]:
    meet(item, device, progress)
    return [logger.isEnabledFor(logging.WARNING) for logger in (log, of_data)]


@pytest.mark.usefixtures("quick_processes")
def test_processes_do_not_repeat_what_was_said_of_the_data(tmp_path: Path) -> None:
    assert Processes(2, [CPU]).map(heard, {str(n): (tmp_path, 2) for n in range(2)}) == {"0": [True, False], "1": [True, False]}
    assert of_data.isEnabledFor(logging.WARNING)


def test_processes_end_with_their_parent(tmp_path: Path) -> None:
    """Killed without warning, it leaves nobody behind who would hold a folder."""
    (tmp_path / "script.py").write_text(
        "import os, time\n"
        "import torch\n"
        "from datastill.executors import Processes\n"
        "def work(name, device, progress):\n"
        "    open(name, 'w').write(str(os.getpid()))\n"
        "    os.rename(name, name + '.pid')\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    Processes(2, [torch.device('cpu')]).map(work, {'a': 'a', 'b': 'b'})\n")
    parent = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        children = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
        assert all(map(_alive, children))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        _until(lambda: not any(map(_alive, children)))
    finally:
        parent.kill()


def _until(true: Callable[[], bool]) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("waited a minute")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")
