"""Figures of a study as inline SVG: lines over an axis, bars by arm, heat and matrix tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from datastill.report.figures import COLOURS, inline, new_axes
from datastill.report.words import number

Row = Mapping[str, Any]
INK, MUTED = "#000001", "#000002"


def lines(results: Mapping[str, Any], student: str, key: str, teachers: Mapping[str, float] | None = None) -> Markup:
    """Mean accuracy over the values of the axis with its 95 % interval over seeds, a line for each recipe; the reference arm
    as a dashed line; the teachers' accuracy (by value of the axis), if given, on a second axis."""
    values = results["axes"]
    figure, axes = new_axes()
    places = {label: place for place, label in enumerate(values)}
    for color, recipe in enumerate(dict.fromkeys(row["recipe"] for row in results["rows"])):
        rows = {row["arm"]: row for row in results["rows"] if (row["recipe"], row["student"]) == (recipe, student)}
        shown = [(places[label], rows[label]["mean"]) for label in values if label in rows]
        x, mean = [place for place, _ in shown], np.array([100 * one["mean"] for _, one in shown])
        half = np.array([100 * (one["high"] - one["mean"]) if "high" in one else 0.0 for _, one in shown])
        tone = f"#00010{color % COLOURS}"
        axes.errorbar(x, mean, yerr=half, color=tone, marker="o", markersize=4, linewidth=1.6, capsize=3, label=recipe)
        if (plain := rows.get(results["against"])) is not None:
            axes.axhline(100 * plain["mean"]["mean"], color=tone, linestyle="--", linewidth=1)
    axes.set_xticks(list(places.values()), [_tick(value) for value in values.values()])
    axes.set_xlabel(next(iter(values)).partition(" ")[0], color=MUTED)
    axes.set_ylabel("accuracy %", color=MUTED)
    axes.margins(x=0.05)
    _legend(axes)
    if teachers:
        beside = axes.twinx()
        known = [(places[label], 100 * teachers[label]) for label in values if label in teachers]
        beside.plot(*zip(*known, strict=True), color=MUTED, linestyle=":", marker="s", markersize=3, linewidth=1.2)
        beside.set_ylabel("teachers' accuracy %", color=MUTED)
        beside.tick_params(colors=MUTED, labelsize=10.5)
        beside.spines[["top", "left", "bottom"]].set_visible(False)
        beside.spines[["right"]].set_color(MUTED)
    return inline(figure, key)


def along(lines: Mapping[str, Sequence[tuple[int, float]]], key: str) -> Markup:
    """Values by iteration, a line for each name."""
    figure, axes = new_axes()
    for color, (name, points) in enumerate(lines.items()):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=f"#00010{color % COLOURS}", marker="o", markersize=3.5, linewidth=1.6, label=name)
    axes.set_xlabel("iteration", color=MUTED)
    axes.set_ylim(bottom=0)
    _legend(axes)
    return inline(figure, key)


def bars(results: Mapping[str, Any], student: str, key: str) -> Markup:
    """Mean accuracy of every arm with its 95 % interval over seeds, a bar for each recipe; if there is only one arm, a row
    for each recipe."""
    figure, axes = new_axes()
    if len({row["arm"] for row in results["rows"]}) == 1:
        results = {**results, "rows": [{**row, "arm": row["recipe"], "recipe": row["arm"]} for row in results["rows"]]}
    recipes = list(dict.fromkeys(row["recipe"] for row in results["rows"]))
    arms = list(dict.fromkeys(row["arm"] for row in results["rows"]))
    figure.set_size_inches(5.2, 0.7 + 0.42 * len(arms) * max(1.0, 0.6 * len(recipes)))
    height = 0.8 / len(recipes)
    for color, recipe in enumerate(recipes):
        rows = {row["arm"]: row["mean"] for row in results["rows"] if (row["recipe"], row["student"]) == (recipe, student)}
        y = [place - 0.4 + height * (color + 0.5) for place, arm in enumerate(arms) if arm in rows]
        found = [rows[arm] for arm in arms if arm in rows]
        half = [100 * (one["high"] - one["mean"]) if "high" in one else 0.0 for one in found]
        axes.barh(y, [100 * one["mean"] for one in found], height * 0.92, color=f"#00010{color % COLOURS}", label=recipe)
        axes.errorbar([100 * one["mean"] for one in found], y, xerr=half, fmt="none", ecolor=MUTED, capsize=3)
    axes.set_yticks(range(len(arms)), [_wrapped(arm, 20) for arm in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=MUTED, alpha=0.2, linewidth=0.6)
    axes.set_xlabel("accuracy %", color=MUTED)
    _legend(axes)
    return inline(figure, key)


def table(rows: Sequence[str], columns: Sequence[str], values: np.ndarray, key: str, *, across: str = "",
          line: Sequence[tuple[float, float]] = ()) -> Markup:
    """Numbers (R, C) as a heat map, in percent or points; NaN for a missing number. across: what the columns are. line:
    drawn through these (column, row), fractions between the squares."""
    figure, axes = new_axes()
    figure.set_size_inches(5.2, 0.9 + 0.42 * len(rows))
    spread = max(float(np.nanmax(values) - np.nanmin(values)), 1e-9)
    for r, c in np.ndindex(values.shape):
        if np.isnan(values[r, c]):
            continue
        strength = 0.08 + 0.5 * (values[r, c] - np.nanmin(values)) / spread
        axes.add_patch(_square(c, r, strength))
        axes.text(c, r, number(float(values[r, c])), ha="center", va="center", color=MUTED, fontsize=10.5)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), [_wrapped(column, max(6, 52 // len(columns))) for column in columns])
    axes.set_yticks(range(len(rows)), [_wrapped(row, 20) for row in rows])
    axes.grid(visible=False)
    axes.set_xlabel(across, color=MUTED)
    if line:
        axes.plot(*zip(*line, strict=True), color="#000101", linewidth=2)
    return inline(figure, key)


def _legend(axes: Any) -> None:
    """Names of the recipes above the figure, if there are several."""
    names, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        axes.legend(names, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9.5,
                    labelcolor=MUTED, borderpad=0, handlelength=1.2)


def _square(x: float, y: float, strength: float) -> Any:
    from matplotlib.patches import Rectangle
    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor="#000100", alpha=strength, linewidth=0)


def _tick(value: Any) -> str:
    return str(len(value)) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)


def _wrapped(text: str, width: int) -> str:
    """The text in several lines, so that neighbors do not overlap."""
    import textwrap
    return "\n".join(textwrap.wrap(text.replace(":", ": ").replace(",", ", "), width)) or text
