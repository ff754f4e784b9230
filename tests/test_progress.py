"""Progress: parts of a larger piece of work, and that by default it only logs warnings."""

from __future__ import annotations

import pickle

import pytest

from datastill.errors import RunError, Stopped
from datastill.progress import Progress
from kit import Told


def test_parts_tell_of_the_whole() -> None:
    told = Told()
    for number in range(2):
        for trial in range(3):
            told.part(number, 2, "snapshots").part(trial, 3, f"trial {trial}").tell(5, 10, "loss 1")
    assert told.steps == [(5, 60), (15, 60), (25, 60), (35, 60), (45, 60), (55, 60)]
    assert told.told[1][2] == "snapshots, trial 1, loss 1"


def test_warnings_and_stops_go_through_parts() -> None:
    told = Told(stop_at=10)
    part = told.part(1, 2)
    part.warn("careful")
    assert told.warned == ["careful"]
    with pytest.raises(Stopped):
        part.tell(0, 10)


def test_steps_that_are_not_shown_can_be_stopped() -> None:
    told = Told(stop_at_check=3)
    unshown = told.part(1, 2).unshown()
    unshown.tell(1, 10)
    unshown.part(0, 2).check()
    unshown.warn("careful")
    with pytest.raises(Stopped):
        unshown.part(0, 2).part(1, 3).tell(1, 10)
    assert (told.told, told.warned) == ([], ["careful"])


def test_by_default_warnings_are_logged_and_nothing_else(caplog: pytest.LogCaptureFixture,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.tell(1, 2, "note")
    progress.part(0, 2).warn("careful")
    assert [(one.name, one.levelname, one.getMessage()) for one in caplog.records] == [("datastill", "WARNING", "careful")]
    assert capsys.readouterr() == ("", "")


def test_a_stop_is_a_run_error_that_keeps_its_code_between_processes() -> None:
    again = pickle.loads(pickle.dumps(Stopped("here", 143)))
    assert isinstance(again, RunError)
    assert (str(again), again.code) == ("here", 143)
