"""The page of what networks with batch normalization give to recoveries: their statistics, raw and scale-free, and signals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import datastill
from datastill.analysis.statistics import FACTOR, MEASURES, SCALE_FREE, SIGNALS, Informative, Layer, measures
from datastill.digest import spec
from datastill.report import words
from datastill.report.figures import COLOURS, inline, new_axes
from datastill.report.plots import MUTED
from datastill.report.study import Picture

TITLES = {"cross_entropy": "Cross-entropy", "statistics": "Distance of the statistics", "gradient.entropy":
          "Gradient of the cross-entropy", "gradient.statistics": "Gradient of the statistics' distance"}


def render(found: Sequence[Informative]) -> str:
    """The page as self-contained HTML."""
    environment = Environment(loader=PackageLoader("datastill", "report"), undefined=StrictUndefined, autoescape=True,
                              trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("statistics.html.jinja").render(
        found=found, words=words, version=datastill.__version__, measures=MEASURES, scale_free=SCALE_FREE, spec=spec,
        factor=f"{FACTOR:g}", pictures=list(pictures(found)), teachers=named(found), number=lambda value: f"{value:.3g}")


def named(found: Sequence[Informative]) -> dict[str, tuple[Any, Any, Any]]:
    """(layers, measures, control) by the name of a teacher, each once."""
    return {name: (*one.teachers[name], one.controls[name]) for one in found for name in one.teachers}


def pictures(found: Sequence[Informative]) -> Iterator[Picture]:
    """Measures by depth, channels of a layer in the middle, signals along the runs."""
    teachers = {name: layers for name, (layers, _, _) in named(found).items()}
    for measure, note in MEASURES.items():
        title = measure[:1].upper() + measure[1:]
        yield Picture(title, f"{note}; by depth, first to last layer", _by_depth(teachers, measure))
    yield Picture("Running means of one layer", "channels in order, a layer in the middle of each network; divided by "
                  "sqrt(variance + eps)", _channels(teachers, "mean"))
    yield Picture("Running variances of one layer", "the same; divided by their mean", _channels(teachers, "var"))
    for signal in SIGNALS:
        if any(signal in one.signals for one in found):
            yield Picture(TITLES[signal], "by iteration, on a logarithmic scale", _along(found, signal))


def _by_depth(teachers: dict[str, Sequence[Layer]], measure: str) -> Markup:
    figure, axes = new_axes()
    for color, (name, layers) in enumerate(teachers.items()):
        values = [measures(layer)[measure] for layer in layers]
        axes.plot(np.linspace(0, 1, len(values)), values, color=f"#00010{color % COLOURS}", linewidth=1.5, label=name)
    if measure not in SCALE_FREE and measure != "entropy":
        axes.set_yscale("log")
    return _finish(figure, axes, f"depth-{list(MEASURES).index(measure)}", "depth")


def _channels(teachers: dict[str, Sequence[Layer]], what: str) -> Markup:
    figure, axes = new_axes()
    for color, (name, layers) in enumerate(teachers.items()):
        layer = layers[len(layers) // 2]
        values = layer.mean / np.sqrt(layer.var + layer.eps) if what == "mean" else layer.var / layer.var.mean()
        axes.plot(np.linspace(0, 1, len(values)), np.sort(values), color=f"#00010{color % COLOURS}", linewidth=1.5,
                  label=name)
    return _finish(figure, axes, f"channels-{what}", "channels, from the smallest value to the largest")


def _along(found: Sequence[Informative], signal: str) -> Markup:
    figure, axes = new_axes()
    for color, one in enumerate(found):
        if signal in one.signals:
            x, y = one.signals[signal]
            axes.plot(x, y, color=f"#00010{color % COLOURS}", linewidth=1.2, label=one.name,
                      **({"marker": "o", "markersize": 2.5} if len(x) < 50 else {}))
    axes.set_yscale("log")
    return _finish(figure, axes, f"signal-{SIGNALS.index(signal)}", "iteration")


def _finish(figure: Any, axes: Any, key: str, label: str) -> Markup:
    axes.set_xlabel(label, color=MUTED)
    if label != "iteration":
        axes.xaxis.get_major_locator().set_params(integer=False)
    if len(axes.get_lines()) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1, frameon=False, fontsize=8.5, labelcolor=MUTED,
                    borderpad=0, handlelength=1.6)
    return inline(figure, key)
