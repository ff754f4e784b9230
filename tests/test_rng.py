"""Named streams: a function of the path alone, apart from each other and from torch's global generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datastill.rng import RNG
from kit import quick

paths = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=5), max_size=4)


def draws(rng: RNG) -> list[float]:
    """A few numbers of every kind of draw."""
    return [*rng.uniform(4).tolist(), *rng.normal(4).tolist(), *rng.permutation(9).tolist(),
            *rng.numpy().random(3).tolist(), *torch.rand(3, generator=rng.torch()).tolist()]


@quick
@given(paths)
def test_equal_paths_draw_equal_numbers(path: list[int | str]) -> None:
    assert draws(RNG(*path)) == draws(RNG(*path))
    assert RNG(*path) == RNG(*path)
    assert hash(RNG(*path)) == hash(RNG(*path))


@quick
@given(paths, paths)
def test_a_path_can_be_walked_in_any_number_of_steps(first: list[int | str], then: list[int | str]) -> None:
    assert draws(RNG(*first)(*then)) == draws(RNG(*first, *then))


@quick
@given(paths, paths)
def test_different_paths_draw_different_numbers(path: list[int | str], other: list[int | str]) -> None:
    if path != other:
        assert RNG(*path).seed != RNG(*other).seed
        assert not torch.equal(RNG(*path).uniform(8), RNG(*other).uniform(8))


@pytest.mark.parametrize(("path", "other"), [
    ((1,), ("1",)), (("a", "b"), ("ab",)), (("a", "b"), ("a,b",)), ((12,), (1, 2)), ((), ("",)),
    (("b", "a"), ("a", "b"))])
def test_paths_that_look_alike_are_different(path: tuple[int | str, ...], other: tuple[int | str, ...]) -> None:
    assert RNG(*path).seed != RNG(*other).seed


def test_numbers_of_any_whole_type_are_equal() -> None:
    assert RNG(np.int64(3), torch.tensor(4).item()) == RNG(3, 4)


def test_neighboring_streams_are_not_correlated() -> None:
    table = torch.stack([RNG(0)("iteration", i).normal(1000) for i in range(20)])
    off_diagonal = torch.corrcoef(table) - torch.eye(20)
    assert off_diagonal.abs().max() < 0.15  # 4.7 standard errors


def test_a_stream_is_known_by_its_numbers() -> None:
    """Results on disk are named by seeds: the numbers must not change between versions."""
    assert RNG(0)("iteration", 12)("plugin", "clom").seed == 8893976768525130337


def test_a_draw_leaves_no_trace_on_other_draws_of_the_stream() -> None:
    rng = RNG(1)
    first = rng.uniform(3)
    rng.normal(7), rng.permutation(3), rng("child").uniform(2)
    assert torch.equal(rng.uniform(3), first)


def test_draws_do_not_disturb_the_global_generators() -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002  the global generator is what is tested
    wanted = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    draws(RNG(2))
    assert torch.equal(torch.rand(3), wanted[0])
    assert (np.random.rand(3) == wanted[1]).all()  # noqa: NPY002


def test_draws_do_not_depend_on_the_global_generator() -> None:
    torch.manual_seed(1)
    first = draws(RNG(3))
    torch.manual_seed(2)
    assert draws(RNG(3)) == first


@quick
@given(st.integers(0, 50))
def test_permutation_is_one(n: int) -> None:
    assert sorted(RNG(n).permutation(n).tolist()) == list(range(n))


def test_uniform_and_normal_are_what_they_say() -> None:
    u, z = RNG(4).uniform(100, 100), RNG(4).normal(100, 100)
    assert u.shape == z.shape == (100, 100)
    assert u.min() >= 0
    assert u.max() < 1
    torch.testing.assert_close(u.mean(), torch.tensor(0.5), atol=0.015, rtol=0)
    torch.testing.assert_close(z.mean(), torch.tensor(0.0), atol=0.05, rtol=0)
    torch.testing.assert_close(z.std(), torch.tensor(1.0), atol=0.04, rtol=0)


def test_as_global_makes_the_global_generator_the_stream() -> None:
    with RNG(6).as_global():
        inside = torch.rand(3)
    assert torch.equal(inside, RNG(6).uniform(3))


@pytest.mark.parametrize("fails", [False, True])
def test_as_global_leaves_the_global_generator_as_it_was(fails: bool) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    try:
        with RNG(6).as_global(), RNG(8).as_global():
            torch.rand(3)
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert torch.equal(torch.random.get_rng_state(), before)
