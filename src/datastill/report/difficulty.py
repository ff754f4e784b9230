"""The page of an analysis of difficulty: what is hard, how hard a set becomes, what easy and hard images look like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import datastill
from datastill.analysis.difficulty import NOTES, Difficulty, Scored
from datastill.report import words
from datastill.report.figures import COLOURS, inline, new_axes
from datastill.report.pictures import SIDE, thumbnail
from datastill.report.plots import MUTED
from datastill.report.study import Picture

BINS, EACH, CLASSES, POINTS = 30, 6, 20, 400  # of a histogram; images of a kind, classes and points shown at most


class Gallery(NamedTuple):
    """A class: its name, its easiest and its hardest images as data URIs, each with its score as text."""

    name: str
    easiest: list[tuple[str, str]]
    hardest: list[tuple[str, str]]


def render(found: Difficulty, title: str) -> str:
    """The page as self-contained HTML; ``title`` says what was analyzed."""
    environment = Environment(loader=PackageLoader("datastill", "report"), undefined=StrictUndefined, autoescape=True,
                              trim_blocks=True, lstrip_blocks=True)
    some = found.run[max(found.run)] if found.run else found.real
    height, width = some.view.shape[1:3]
    zoom = SIDE // max(height, width) or min(1.0, 2 * SIDE / max(height, width))
    return environment.get_template("difficulty.html.jinja").render(
        found=found, title=title, pictures=list(pictures(found)), words=words, version=datastill.__version__, notes=NOTES,
        summary=list(summary(found)), classes=list(of_classes(found, some)), galleries=galleries(found.classes, some),
        agreement=list(agreement(found)), what=some.name, width=round(width * zoom), height=round(height * zoom),
        left_out=max(0, len(found.classes) - CLASSES))


def summary(found: Difficulty) -> Iterator[tuple[str, ...]]:
    """(score, images, mean, standard deviation, lowest tenth, highest tenth, share of the real images that are easier than
    the mean) of what is compared."""
    for name, one in found.shown.items():
        for score, values in one.scores.items():
            real = found.real.scores[score]
            easier = float(((real < values.mean()) + 0.5 * (real == values.mean())).mean())
            numbers = (values.mean(), values.std(), *np.quantile(values, (0.1, 0.9)))
            yield NOTES[score], name, *(f"{value:.3g}" for value in numbers), words.percent(easier)


def of_classes(found: Difficulty, some: Scored) -> Iterator[tuple[str, ...]]:
    """Name of a class, then the mean of each score over its images."""
    for label, name in enumerate(found.classes):
        if (some.labels == label).any():
            yield (name, *(f"{some.of_class(score, label).mean():.3g}" for score in some.scores))


def agreement(found: Difficulty) -> Iterator[tuple[str, str, str]]:
    """Rank correlations: of two scores over the real images, and of scores given in a file with each."""
    for (a, b), value in found.agreement().items():
        yield NOTES[a], NOTES[b], f"{value:+.2f}"
    for score, one in found.public.items():
        yield "the given scores", NOTES[score], f"{one['spearman']['value']:+.3f}"


def galleries(classes: Sequence[str], some: Scored) -> list[Gallery]:
    """The easiest and hardest images of each class by gradient norm."""
    shown = []
    for label, name in enumerate(classes[:CLASSES]):
        rows = np.flatnonzero(some.labels == label)
        order = rows[np.argsort(some.scores["gradn"][rows], kind="stable")]
        count = min(EACH, len(order) // 2)
        pair = [[(thumbnail(some.view[row]), f"{some.scores['gradn'][row]:.3g}") for row in part]
                for part in (order[:count], order[len(order) - count:])]
        if count:
            shown.append(Gallery(name, *pair))
    return shown


def pictures(found: Difficulty) -> Iterator[Picture]:
    """Curves over a run, histograms, and the gradient norm against mistakes."""
    if len(found.run) > 1:
        for score in found.real.scores:
            own = score == "gradn" and found.current
            yield Picture(NOTES[score], "mean over the images of the set by iteration"
                          + ("; dashed: at the network of the run itself, another one at each point where the "
                             "method draws them anew, so that small steps are chance" if own else "")
                          + "; dotted: mean and middle half of real images", _along(found, score))
    for score in found.real.scores:
        yield Picture(NOTES[score], f"share of the images; {', '.join(found.shown)}" if found.run else "share of the images",
                      _histogram(found, score))
    most = max(len(some.labels) for some in found.shown.values())
    yield Picture("Gradient norm and mistakes", "each point an image"
                  + (f"; of more than {POINTS}, random ones" if most > POINTS else ""), _scatter(found))


def _along(found: Difficulty, score: str) -> Markup:
    figure, axes = new_axes()
    real = found.real.scores[score]  # type: ignore[index]
    low, high = np.quantile(real, (0.25, 0.75))
    axes.axhspan(low, high, color=MUTED, alpha=0.12, linewidth=0)
    axes.axhline(real.mean(), color=MUTED, linestyle=":", linewidth=1.2, label="real images")
    axes.plot(list(found.run), [one.scores[score].mean() for one in found.run.values()],  # type: ignore[index]
              color="#000100", marker="o", markersize=3.5, label="the set")
    if score == "gradn" and found.current:
        axes.plot(list(found.current), list(found.current.values()), color="#000101", linestyle="--", marker="s",
                  markersize=3.5, label="at the run's own network")
    return _finish(figure, axes, f"along-{score}")


def _histogram(found: Difficulty, score: str) -> Markup:
    figure, axes = new_axes()
    values = {name: one.scores[score] for name, one in found.shown.items()}  # type: ignore[index]
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), BINS)
    for color, (name, some) in enumerate(values.items()):
        axes.stairs(np.histogram(some, edges)[0] / len(some) * 100, edges, color=f"#00010{color % COLOURS}", label=name,
                    linewidth=1.6, fill=color == 0, alpha=0.4 if color == 0 else 1.0)
    axes.set_ylabel("%", color=MUTED)
    return _finish(figure, axes, f"histogram-{score}", "score")


def _scatter(found: Difficulty) -> Markup:
    figure, axes = new_axes()
    for color, (name, some) in enumerate(found.shown.items()):
        rows = np.random.default_rng(0).permutation(len(some.labels))[:POINTS]  # they are in class order
        x, y = some.scores["misclassified"][rows], some.scores["gradn"][rows]
        axes.plot(x, y, color=f"#00010{color % COLOURS}", marker="o", markersize=2.5, linestyle="", alpha=0.6, label=name)
    axes.set_ylabel("gradient norm", color=MUTED)
    axes.margins(x=0.03)
    return _finish(figure, axes, "scatter", "share of networks that are wrong")


def _finish(figure: Any, axes: Any, key: str, label: str = "iteration") -> Markup:
    axes.set_xlabel(label, color=MUTED)
    if label != "iteration":
        axes.xaxis.get_major_locator().set_params(integer=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9.5, labelcolor=MUTED, borderpad=0,
                handlelength=1.6)
    return inline(figure, key)
