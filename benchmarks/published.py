"""Runs of recipes beside the numbers published for them, as the Markdown table of docs/results/published.md.

usage: python benchmarks/published.py DIR ...      (each: ``datastill distill RECIPE --out DIR && datastill evaluate DIR``)

Random real images are the baseline of a sheet, one draw and one student per trial, whichever coreset the sheet is of. The
interval is that of our mean: published tables mostly do not say over how many runs theirs is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from datastill.artifact import read_card
from datastill.recipes import Recipe, read_recipe
from datastill.sheets import read_sheets
from datastill.statistics import statistics


def rows(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and line of the cells that a run tells about: its own, and random real images of the same data and ipc."""
    card = read_card(folder)
    recipe = read_recipe(card["recipe"])
    for sheet in read_sheets(folder):
        if (sheet["protocol"], sheet["network"], sheet["split"]) == (card["protocol"], "convnet", "test"):
            if recipe.run.method.choose != "random":
                yield recipe.name, row(recipe, [one["accuracy"] for one in sheet["synthetic"]])
            baseline = read_recipe(f"random/{recipe.name.partition('/')[2]}")
            yield baseline.name, row(baseline, [one["accuracy"] for one in sheet["random"]])


def row(recipe: Recipe, accuracies: Sequence[float]) -> str:
    """One line of the table."""
    published = recipe.published
    assert published is not None
    found = statistics([100 * one for one in accuracies])
    mean, low, high = (found[name] - published.accuracy for name in ("mean", "low", "high"))
    apart = max(low, -high, 0.0)  # how far the interval is from 0
    verdict = "within a point" if apart <= 1 else f"{apart:.1f} beyond the interval"
    star = "*" if published.recalled else ""
    return (f"| {recipe.name} | {found['mean']:.1f} ± {found['std']:.1f} | {found['n']} | {published.accuracy:.1f}{star} | "
            f"{mean:+.1f} ({low:+.1f} to {high:+.1f}) | {verdict} |")


def main() -> None:
    found = {name: line for folder in sys.argv[1:] for name, line in rows(Path(folder))}
    print("| recipe | ours | n | published | difference (95 % interval) | verdict |\n|---|---|---|---|---|---|")
    print("\n".join(found.values()))


if __name__ == "__main__":
    main()
