"""The page of the theory: when easy samples win."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

import datastill
from datastill.analysis.theory import Curves, Keep, Map
from datastill.report import words
from datastill.report.figures import COLOURS, inline, new_axes
from datastill.report.plots import MUTED, table
from datastill.report.study import Picture

STYLES: dict[Keep, str] = {"easy": "-", "hard": "--"}
DASHES = ("-", "--", "-.", ":")  # of the angles in one figure


def render(found: Curves) -> str:
    """The page: a figure for each angle, one of the difference for each, the numbers."""
    environment = Environment(loader=PackageLoader("datastill", "report"), undefined=StrictUndefined, autoescape=True,
                              trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("theory.html.jinja").render(
        found=found, pictures=list(pictures(found)), words=words, version=datastill.__version__, rows=list(rows(found)))


def rows(found: Curves) -> Iterator[tuple[str, ...]]:
    """angle, fraction, crossing, and the errors in percent at the first, middle and last alpha: easy / hard."""
    places = [0, len(found.alphas) // 2, len(found.alphas) - 1]
    for fraction, angle in dict.fromkeys((fraction, angle) for keep, fraction, angle in found.errors if keep == "easy"):
        easy, hard = (found.errors[keep, fraction, angle] for keep in STYLES)
        crossing = found.crossings.get((fraction, angle))
        yield (f"{angle:g}°", f"{fraction:g}", "–" if crossing is None else f"{crossing:.2f}",
               *(f"{words.number(100 * easy[place])} / {words.number(100 * hard[place])}" for place in places))


def pictures(found: Curves) -> Iterator[Picture]:
    """Errors for each angle of the probe, then what hard samples cost compared with easy ones."""
    angles = list(dict.fromkeys(angle for keep, _, angle in found.errors if keep == "easy"))
    fractions = list(dict.fromkeys(fraction for keep, fraction, _ in found.errors if keep == "easy"))
    for number, angle in enumerate(angles):
        title = f"probe at {angle:g}°" if angle else "a perfect probe"
        yield Picture(f"Test error, {title}", "solid: the easy fraction kept, dashed: the hard one, dotted: random samples"
                      + ("; points: finite students" if found.simulated else ""),
                      _errors(found, fractions, angle, f"errors-{number}"))
    for start in range(0, len(angles), len(DASHES)):
        part = angles[start:start + len(DASHES)]
        which = "" if len(angles) <= len(DASHES) else f", probes at {part[0]:g}° to {part[-1]:g}°"
        yield Picture(f"Hard minus easy{which}", "points of test error; above 0 easy samples are better",
                      _gaps(found, fractions, part, f"gaps-{start}"))
    for number, (angle, drawn) in enumerate(found.maps.items()):
        title = f"probe at {angle:g}°" if angle else "a perfect probe"
        yield Picture(f"Hard minus easy by samples and fraction, {title}",
                      "points of test error; right of the line hard samples are better", _map(drawn, f"map-{number}"))


def _errors(found: Curves, fractions: list[float], angle: float, key: str) -> Markup:
    figure, axes = new_axes()
    random = found.errors["random", 1.0, 0.0]
    axes.plot(found.alphas, [100 * one for one in random], color=MUTED, linestyle=":", label="random")
    for number, fraction in enumerate(fractions):
        tone = f"#00010{number % COLOURS}"
        for keep, style in STYLES.items():
            curve = (keep, fraction, angle)
            axes.plot(found.alphas, [100 * one for one in found.errors[curve]], color=tone, linestyle=style,
                      label=f"fraction {fraction:g}" if keep == "easy" else None)
            for alpha, mean, spread in found.simulated.get(curve, ()):
                axes.errorbar([alpha], [100 * mean], yerr=[100 * spread], color=tone, marker="o" if keep == "easy" else "s",
                              markersize=3.5, linewidth=1)
    return _finish(figure, axes, "test error %", key)


def _gaps(found: Curves, fractions: list[float], angles: list[float], key: str) -> Markup:
    figure, axes = new_axes()
    for number, fraction in enumerate(fractions):
        for style, angle in zip(DASHES, angles, strict=False):
            easy, hard = (found.errors[keep, fraction, angle] for keep in STYLES)
            axes.plot(found.alphas, [100 * (b - a) for a, b in zip(easy, hard, strict=True)], linestyle=style,
                      color=f"#00010{number % COLOURS}", label=f"{fraction:g}, {angle:g}°")
    axes.axhline(0, color=MUTED, linewidth=1)
    return _finish(figure, axes, "points", key)


def _map(drawn: Map, key: str) -> Markup:
    """The map as a table, with the line on which easy and hard samples give the same error."""
    line = [(float(np.interp(math.log(alpha), np.log(drawn.alphas), np.arange(len(drawn.alphas)))), float(row))
            for row, alpha in enumerate(drawn.crossings) if alpha]
    return table([f"{fraction:g} kept" for fraction in drawn.fractions], [f"{alpha:g}" for alpha in drawn.alphas],
                 100 * drawn.gaps, key, across="samples for each dimension before pruning (alpha_tot)",
                 line=line)


def _finish(figure: Any, axes: Any, label: str, key: str) -> Markup:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("samples kept for each dimension (alpha_prune)", color=MUTED)
    axes.set_ylabel(label, color=MUTED)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9.5, labelcolor=MUTED, borderpad=0,
                handlelength=1.6)
    return inline(figure, key)
