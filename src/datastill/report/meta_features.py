"""The page of an analysis of meta features: what networks see alike, and their maps over the images."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps
from PIL import Image

import datastill
from datastill.analysis.meta_features import MetaFeatures, Seen, summary
from datastill.artifact import png, shown
from datastill.report import words
from datastill.report.figures import COLOURS, inline, new_axes
from datastill.report.pictures import SIDE
from datastill.report.plots import MUTED, table
from datastill.report.study import Picture

if TYPE_CHECKING:
    from torch import Tensor

CLASSES, MARGIN = 10, 0.45  # classes shown at most; how much of the image is seen under a map
MEASURES = {"overlap": "Overlap", "common": "Overlap where all see something", "empty": "Empty maps", "meta": "Area all see",
            "variance": "Variance of the maps"}


class Shown(NamedTuple):
    """An image of a class: its name, and for each thing compared the image with the map of every network over it, as data
    URIs."""

    name: str
    of: dict[str, list[str]]


def render(found: MetaFeatures, title: str) -> str:
    """The page as self-contained HTML; ``title`` says what was analyzed."""
    environment = Environment(loader=PackageLoader("datastill", "report"), undefined=StrictUndefined, autoescape=True,
                              trim_blocks=True, lstrip_blocks=True)
    height, width = found.real.view.shape[1:3]
    zoom = SIDE // max(height, width) or min(1.0, 2 * SIDE / max(height, width))
    return environment.get_template("meta_features.html.jinja").render(
        found=found, title=title, pictures=list(pictures(found)), words=words, version=datastill.__version__,
        summary=summary(found), rows=list(gallery(found)), width=round(width * zoom), height=round(height * zoom),
        left_out=max(0, len(found.classes) - CLASSES), number=lambda value: "" if math.isnan(value) else f"{value:.3g}")


def pictures(found: MetaFeatures) -> Iterator[Picture]:
    """Curves along the run for each group of networks, and the overlap of every two networks."""
    if len(found.run) > 1:
        for measure, name in MEASURES.items():
            yield Picture(name, "at threshold 0.5, by iteration; dotted: real images", _along(found, measure))
    for number, (name, some) in enumerate(found.shown.items()):
        labels = [f"{one}{'' if known else ' (unseen)'}" for one, known in zip(found.networks, found.known, strict=True)]
        yield Picture(f"Overlap of every two networks, {name}", "in %, threshold 0.5",
                      table(labels, [str(column + 1) for column in range(len(labels))], 100 * found.pairs(some),
                            f"pairs-{number}", across="networks in the same order"))


def _along(found: MetaFeatures, measure: str) -> Markup:
    figure, axes = new_axes()
    for color, (group, networks) in enumerate(found.groups.items()):
        tone = f"#00010{color % COLOURS}"
        values = [some.of(networks, 0.5)[measure] for some in found.run.values()]
        axes.plot(list(found.run), values, color=tone, marker="o", markersize=3.5, label=f"{group} networks")
        axes.axhline(found.real.of(networks, 0.5)[measure], color=tone, linestyle=":", linewidth=1.2)
    axes.set_xlabel("iteration", color=MUTED)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9.5, labelcolor=MUTED, borderpad=0,
                handlelength=1.6)
    return inline(figure, f"along-{measure}")


def gallery(found: MetaFeatures) -> Iterator[Shown]:
    """The first image of each class with the maps of all networks."""
    for label, name in enumerate(found.classes[:CLASSES]):
        of = {what: _overlaid(some, int(rows[0])) for what, some in found.shown.items()
              if len(rows := np.flatnonzero(some.labels == label))}
        if of:
            yield Shown(name, of)


def _overlaid(some: Seen, row: int) -> list[str]:
    return [_uri(some.view[row], None), *(_uri(some.view[row], one) for one in some.maps[:, row])]


def _uri(view: Tensor, over: Tensor | None) -> str:
    """An image (H, W, C) uint8, with a map (H, W) over it, as a data URI."""
    pixels = shown(view).numpy()
    pixels = pixels.repeat(3, 2) if pixels.shape[2] == 1 else pixels
    if over is not None:
        gray = pixels.mean(2, keepdims=True).repeat(3, 2)
        heat = 255 * colormaps["viridis"](over.numpy())[..., :3]
        pixels = (MARGIN * gray + (1 - MARGIN) * heat).round().astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(png(Image.fromarray(np.ascontiguousarray(pixels)))).decode()
