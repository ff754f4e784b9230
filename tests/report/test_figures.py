"""Curves: nothing lost in thinning, a true running mean, SVG that fits into the page."""

import re

import numpy as np
import pytest

from datastill.report import figures


def test_thin_keeps_every_spike() -> None:
    y = np.sin(np.arange(20_000) / 700)
    y[[1234, 17_000]] = 9.0, -9.0
    x, few = figures.thin(np.arange(20_000), y)
    assert len(x) <= figures.POINTS
    assert (few.max(), few.min()) == (9.0, -9.0)
    assert np.array_equal(y[x], few)
    assert np.all(np.diff(x) > 0)
    assert figures.thin(x[:5], few[:5])[0] is not None


def test_running_mean_is_the_mean_of_neighbors() -> None:
    y = np.arange(50.0) ** 2
    expected = [y[max(0, i - 3):i + 4].mean() for i in range(50)]
    assert np.allclose(figures.running_mean(y, 7), expected)


@pytest.mark.parametrize("count", [1, 24, 25, 400, 20_000])
def test_smoothing_is_odd(count: int) -> None:
    assert figures.smoothing(count) % 2 == 1
    assert figures.smoothing(count) <= count


def test_terms_of_a_run_without_plugins_are_drawn_once() -> None:
    log = [{"iteration": i, "method": 1.0 / i, "loss": 1.0 / i, "share.method": 1.0, "time": 0.0} for i in range(1, 40)]
    (curve,) = figures.curves(log, "a")
    assert curve.title == "loss"
    assert "starts at 1, ends at 0.02564" in curve.alt
    assert figures.shares(log, "a") is None


def test_every_term_is_drawn_where_it_was_logged() -> None:
    log = [{"iteration": i, "method": 2.0, "tv": -1.0, "loss": 1.0, "time": 0.0} for i in range(1, 4)]
    log[1]["extra"] = 5.0
    assert [curve.title for curve in figures.curves(log, "a")] == ["method", "tv", "loss", "extra"]


def test_shares() -> None:
    log = [{"iteration": i, "share.method": 0.75, "share.tv": 0.25} for i in (1, 101)]
    drawn = figures.shares(log, "a")
    assert drawn is not None
    assert drawn.terms == [("method", 0, 0.75), ("tv", 1, 0.25)]
    assert drawn.alt == "gradient shares at iteration 101: method 75.0\u00a0%, tv 25.0\u00a0%"
    assert drawn.svg is not None
    assert "var(--c0)" in drawn.svg
    single = figures.shares(log[:1], "a")
    assert single is not None
    assert single.svg is None


def test_svg_is_fit_for_the_page() -> None:
    x = np.arange(1.0, 5001.0)
    svg = str(figures.curve("loss", x, 1 / x, "key").svg)
    assert len(svg) < 60_000
    assert not re.search(r"xmlns|http|<style|<!--|#00010|#00000|DejaVu", svg)
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert all(one.startswith("key-") for one in ids)
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', svg)) <= set(ids)


def test_small_values_keep_their_digits_on_the_axis() -> None:
    log = [{"iteration": i, "loss": 10.0 ** (-3 * i / 40), "time": 0.0} for i in range(1, 40)]
    (curve,) = figures.curves(log, "a")
    assert re.findall(r">(0\.\d+)<", str(curve.svg))
    assert "0.00<" not in str(curve.svg)
