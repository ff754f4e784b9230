"""Jobs: results in order, errors reach the caller, processes do the same as one after the other."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from datastill.jobs import carry_out


def test_one_after_the_other() -> None:
    told: list[tuple[int, int]] = []
    assert carry_out(math.sqrt, [1.0, 4.0, 9.0], 1, lambda *at: told.append(at)) == [1.0, 2.0, 3.0]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_processes_give_the_same_in_order() -> None:
    told: list[tuple[int, int]] = []
    assert carry_out(math.sqrt, [1.0, 4.0, 9.0], 2, lambda *at: told.append(at)) == [1.0, 2.0, 3.0]
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_ends_it(jobs: int) -> None:
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        carry_out(math.sqrt, [1.0, -1.0, 4.0], jobs, lambda *at: None)


def test_nothing_to_do() -> None:
    assert carry_out(math.sqrt, [], 2, lambda *at: None) == []


def test_processes_end_with_their_parent(tmp_path: Path) -> None:
    """Killed without warning, it leaves nobody behind who would hold a folder."""
    (tmp_path / "script.py").write_text(
        "import os, time\n"
        "from datastill.jobs import carry_out\n"
        "def work(name):\n"
        "    open(name, 'w').write(str(os.getpid()))\n"
        "    os.rename(name, name + '.pid')\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    carry_out(work, ['a', 'b'], 2, print)\n")
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
