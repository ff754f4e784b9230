"""Views made by worker processes: the same as without them, and what is said when one fails."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import datastill as ds
import tiny
from datastill.errors import InputError, RunError
from datastill.rng import RNG
from kit import input_error

pytest.importorskip("lightly")

from datastill.teachers._views import MOST, Views, suitable

forks = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
PARTS = list(torch.randperm(30, generator=torch.Generator().manual_seed(0)).split(7))


def few() -> ds.Images:
    return tiny.splits().train.subset(torch.arange(30))


@forks
def test_processes_make_the_same_views() -> None:
    alone, others = (list(Views(few()).batches(PARTS, RNG("views"), workers)) for workers in (0, 2))
    assert [len(one) for one, _ in alone] == [7, 7, 7, 7, 2]
    for (a, b), (c, d) in zip(alone, others, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
        assert not torch.equal(a, b)


@forks
@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_read_is_one_line(workers: int) -> None:
    views = Views(few())

    def pair(rows: torch.Tensor, rng: RNG) -> tuple[torch.Tensor, torch.Tensor]:
        raise InputError("cat.png: not a picture")

    views.pair = pair  # type: ignore[method-assign]
    with input_error("cat.png: not a picture"):
        list(views.batches(PARTS, RNG("views"), workers))


@forks
def test_a_process_that_is_ended_is_named() -> None:
    views = Views(few())

    def pair(rows: torch.Tensor, rng: RNG) -> tuple[torch.Tensor, torch.Tensor]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    views.pair = pair  # type: ignore[method-assign]
    with pytest.raises(RunError, match="a process that makes views was ended from outside") as found:
        list(views.batches(PARTS, RNG("views"), 2))
    assert "\n" not in str(found.value)


def test_how_many() -> None:
    assert suitable(torch.device("cpu")) == 0
    assert 0 <= suitable(torch.device("cuda")) <= MOST


def test_views_are_whitened_where_images_are(tmp_path: Path) -> None:
    """What a network is trained on is of the same kind as what it is asked about later."""
    white = ds.Data(source="digits", zca=True).load(tmp_path).train.subset(torch.arange(30))  # type: ignore[arg-type]
    plain = replace(white, whitening=None, whitened=None)
    rows = torch.arange(12)
    (one, _), (other, _) = (Views(images).pair(rows, RNG(1)) for images in (white, plain))
    assert white.whitening is not None
    torch.testing.assert_close(one, white.whitening.whiten(other))
