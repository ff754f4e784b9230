"""Curves as inline SVG that follow the page's colors, light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from datastill.report.words import percent

POINTS = 1000  # at most, in a line
COLOURS = 6  # of terms in the shares figure; more terms reuse them
# Colors that no figure would use, each replaced by a custom property of the page, so that dark mode applies to the curves.
STAND_INS = {"#000001": "var(--line)", "#000002": "var(--muted)",
             **{f"#00010{i}": f"var(--c{i})" for i in range(COLOURS)}}


class Curve(NamedTuple):
    """A drawn curve: its title, alternative text, what the lines are, and the SVG."""

    title: str
    alt: str
    note: str
    svg: Markup


class Shares(NamedTuple):
    """Gradient shares: (term, color number, last share) of each, alternative text, the SVG (None for one point)."""

    terms: list[tuple[str, int, float]]
    alt: str
    svg: Markup | None


def curves(log: Sequence[Mapping[str, Any]], key: str) -> list[Curve]:
    """One curve for each term in the log; ``key`` makes the SVG's ids unique on the page."""
    names = [n for n in dict.fromkeys(n for line in log for n in line)
             if n not in ("iteration", "time") and not n.startswith("share.")]
    if all(line.get("method") == line.get("loss") for line in log):
        names = [n for n in names if n != "method"]  # a run without plug-ins: the two are the same
    drawn = []
    for i, name in enumerate(names):
        x, y = (np.array([line[n] for line in log if name in line], dtype=float) for n in ("iteration", name))
        drawn.append(curve(name, x, y, f"{key}-{i}"))
    return drawn


def curve(title: str, x: np.ndarray, y: np.ndarray, key: str) -> Curve:
    """One term over the iterations: every value light, a running mean strong; log scale if all values are positive."""
    figure, axes = new_axes()
    window = smoothing(len(x))
    axes.plot(*thin(x, y), color="#000001", linewidth=0.8, alpha=0.4 if window > 1 else 1.0,
              marker="o" if len(x) < 3 else "")
    if window > 1:
        smooth = running_mean(y, window)
        some = np.unique(np.linspace(0, len(x) - 1, min(len(x), 300)).astype(int))
        axes.plot(x[some], smooth[some], color="#000001", linewidth=1.8)
    if y.min() > 0:
        _log_scale(axes, y.max() / y.min())
    every = "every value" if len(x) <= POINTS else f"minimum and maximum of every {2 * len(x) / POINTS:.0f} values"
    note = f"light: {every}; strong: running mean over {window} values" if window > 1 else every
    alt = f"{title} over iterations {x[0]:.0f} to {x[-1]:.0f}: starts at {y[0]:.4g}, ends at {y[-1]:.4g}, " \
          f"minimum {y.min():.4g}, maximum {y.max():.4g}"
    return Curve(title, alt, note, inline(figure, key))


def _log_scale(axes: Any, range_: float) -> None:
    axes.set_yscale("log")
    # 1, 2, 5 give too few ticks over a narrow range and too many over a wide one
    axes.yaxis.set_major_locator(MaxNLocator(4) if range_ < 3 else LogLocator(subs=(1,) if range_ > 1e3 else (1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def shares(log: Sequence[Mapping[str, Any]], key: str) -> Shares | None:
    """How the sum of gradient norms is split among the terms, at the iterations where it was measured; None for one term."""
    lines = [line for line in log if any(n.startswith("share.") for n in line)]
    names = list(dict.fromkeys(n for line in lines for n in line if n.startswith("share.")))
    if len(names) < 2:
        return None
    x = np.array([line["iteration"] for line in lines], dtype=float)
    parts = np.array([[line.get(n, 0.0) for line in lines] for n in names])
    terms = [(n.removeprefix("share."), i % COLOURS, float(parts[i, -1])) for i, n in enumerate(names)]
    last = ", ".join(f"{name} {percent(share)}" for name, _, share in terms)
    alt = f"gradient shares at iteration {x[-1]:.0f}: {last}"
    if len(x) < 2:
        return Shares(terms, alt, None)
    figure, axes = new_axes()
    some = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).astype(int))
    axes.stackplot(x[some], parts[:, some], colors=[f"#00010{color}" for _, color, _ in terms], linewidth=0)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return Shares(terms, alt, inline(figure, key))


def smoothing(count: int) -> int:
    """Width of the running mean for ``count`` values: odd, about a twenty-fifth of it; 1 for short curves."""
    return 1 if count < 25 else count // 25 // 2 * 2 + 1


def running_mean(y: np.ndarray, window: int) -> np.ndarray:
    """Mean over ``window`` neighbors, fewer at both ends; (n,) -> (n,)."""
    total = np.concatenate([[0.0], np.cumsum(y)])
    at = np.arange(len(y))
    low, high = np.maximum(at - window // 2, 0), np.minimum(at + window // 2 + 1, len(y))
    return (total[high] - total[low]) / (high - low)


def thin(x: np.ndarray, y: np.ndarray, limit: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most ``limit`` points: the minimum and maximum of each interval, so that no spike is lost."""
    if len(x) <= limit:
        return x, y
    edges = np.linspace(0, len(x), limit // 2 + 1).astype(int)
    keep = sorted({a + at for a, b in pairwise(edges) for at in (y[a:b].argmin(), y[a:b].argmax())})
    return x[keep], y[keep]


def new_axes() -> tuple[Figure, Any]:
    """An empty figure over iterations, in the style of the page."""
    figure = Figure(figsize=(5.2, 2.7), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#000002")
    axes.tick_params(colors="#000002", labelsize=10.5, which="both", width=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", color="#000002", alpha=0.2, linewidth=0.6)
    axes.set_xlabel("iteration", color="#000002", fontsize=10.5)
    axes.margins(x=0.01)
    return figure, axes


def inline(figure: Figure, key: str) -> Markup:
    """The figure as an ``<svg>`` for an HTML page: loads nothing, shares no ids or styles with the rest of the page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "datastill"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    head, _, body = text.partition(">")
    head = re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", head) + ' aria-hidden="true"'
    body = re.sub(r'id="([^"]*)"', rf'id="{key}-\1"', body).replace("xlink:href", "href")
    body = body.replace('href="#', f'href="#{key}-').replace("url(#", f"url(#{key}-")
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", tag[0]), body)
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", body)
    for color, name in STAND_INS.items():
        body = body.replace(color, name)
    return Markup(f"{head}>{body}")
