"""``report``: read finished runs, write one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import datastill
from datastill import artifact, checkpoint
from datastill import sheets as score_sheets
from datastill.core import Protocol
from datastill.data import Data
from datastill.digest import spec
from datastill.errors import InputError
from datastill.files import make_folder, real, write_atomically
from datastill.nets import Architecture
from datastill.outputs import check_named, check_output, is_page
from datastill.registry import kind
from datastill.report import figures, guided, pictures, reproduce, settings, words
from datastill.run import Run, label
from datastill.tables import per_class


@dataclass(frozen=True)
class Section:
    """Everything the page shows about one run."""

    name: str
    title: str
    card: dict[str, Any]
    columns: dict[str, tuple[str, str]]  # of the comparison table
    data: list[tuple[str, str]]
    best: Mapping[str, Any] | None
    sheets: list[dict[str, Any]]
    rows: list[words.Row]
    pictures: pictures.Pictures
    curves: list[figures.Curve]
    shares: figures.Shares | None
    groups: tuple[settings.Group, ...]
    known: bool  # whether the defaults are known
    facts: list[tuple[str, str]]
    commands: list[str]
    python: str


def report(folders: Sequence[Path], out: Path, *, scores: Path | None = None, force: bool = False) -> Path:
    """Write one self-contained HTML page about finished runs to ``out``, atomically, and return ``out``.

    The page depends on the folders only. It shows their paths from the working folder on, or only the last part, so that it
    can be shared. An earlier page is replaced; any other file only with ``force``, and never one of a distilled set.
    ``scores``: folder of the score sheets, by default ``scores`` beside each set.

    Raises InputError: no folder, one without a finished artifact, a damaged file in it, no scores in ``scores``, a
    place that cannot be written.
    """
    if not folders:
        raise InputError("no run folder given, expected one or more; name the folders of finished runs")
    out = Path(out)
    if out.is_dir():
        raise InputError(f"{out} is a folder, expected the name of an HTML file, such as {out / 'report.html'}")
    check_output(out, "a page of datastill", is_page, force)
    check_named(out, "a page", ".html", ".htm")
    sections = [collect(Path(folder), f"f{i}", scores) for i, folder in enumerate(folders)]
    if scores is not None and not any(section.sheets for section in sections):
        raise InputError(f"{scores} holds no scores of {', '.join(map(str, folders))}; expected the folder given to "
                         "evaluate --out")
    make_folder(out.parent)
    write_atomically(out, render(sections).encode())
    return out


def render(sections: Sequence[Section]) -> str:
    """The page as HTML."""
    environment = Environment(loader=PackageLoader("datastill.report", "."), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    scored = [(s.best, s.card.get("learning_rate")) for s in sections if s.best is not None]
    alike = {(best["network"], words.asked(best, lr), best["split"]) for best, lr in scored}
    data = {s.card["data"]["fingerprint"] for s in sections}
    gains = guided.gains([(s.card, s.sheets) for s in sections])
    matrices = [] if len(sections) == 1 else words.matrices([words.Scored(
        s.name, network_of(s.card), settings.data_name(s.card), s.card.get("learning_rate"), s.sheets) for s in sections])
    return environment.get_template("page.html.jinja").render(sections=sections, words=words, alike=sorted(alike),
                                                              data=data, matrices=matrices, gains=gains,
                                                              is_selected=artifact.is_selected,
                                                              version=datastill.__version__)


def collect(folder: Path, key: str, scores: Path | None = None) -> Section:
    """Read everything about one run. Raises InputError if it is unfinished or damaged."""
    distilled = artifact.load(folder)
    card, name, place = distilled.card, real(folder).name, _place(folder)
    run = settings.read(Run, card["run"])
    with _expecting(scores or folder / score_sheets.SCORES):
        sheets = score_sheets.read_sheets(folder, scores)
        rows = [words.row(sheet) for sheet in sheets]
        best = words.choose(sheets, "" if run is None else spec(run.network), card.get("protocol"))
        right, random = (words.mean_per_class(best or {}, subject) for subject in ("synthetic", "random"))
    with _expecting(folder / checkpoint.LOG):
        log = checkpoint.read_log(folder)
        curves, gradients = figures.curves(log, key), figures.shares(log, f"{key}-shares")
        facts = _facts(card, log)
    with _expecting(folder / pictures.START):
        shown = pictures.pictures(distilled, pictures.read_start(folder, card), right, random,
                                  (best or {}).get("counts", ()))
    groups = _used(settings.groups_of_table(card["run"]) if run is None else settings.groups(run), card)
    return Section(name, title(card), card, _columns(card, run), _data(card), best, sheets, rows, shown, curves, gradients,
                   groups, run is not None, facts, reproduce.commands(place, card, run, sheets),
                   reproduce.python(place, distilled))


def _place(folder: Path) -> str:
    """The folder as commands name it: relative to the working folder, or its last part if it is elsewhere."""
    whole, here = real(folder), real(Path.cwd())
    return str(whole.relative_to(here)) if here in whole.parents else whole.name


@contextmanager
def _expecting(place: Path) -> Iterator[None]:
    """Files of earlier versions carry no checksum: name a malformed one instead of showing a traceback."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{place} is damaged or was edited: its content does not have the expected form ({error!r}); "
                         "restore it from a copy, or delete it to create the page without it") from error


def network_of(card: dict[str, Any]) -> str:
    """The network a set was distilled with, as ``name:option=value``."""
    network = settings.read(Architecture, card["run"]["network"])
    return str(card["run"]["network"]["kind"]) if network is None else spec(network)


def title(card: dict[str, Any]) -> str:
    """``DM + total_variation on digits, 1 image per class``."""
    names = [settings.method_name(card), *map(settings.name_of, card["run"].get("plugins", {}))]
    return f"{' + '.join(names)} on {settings.data_name(card)}, {words.images(card['ipc'])} per class"


def _columns(card: dict[str, Any], run: Run | None) -> dict[str, tuple[str, str]]:
    """Cells of the comparison table by heading: the name, and the settings that differ from the defaults."""
    table = card["run"]
    method = settings.method_name(card)
    parts = {"method": (method, ""), "plug-ins": (", ".join(table.get("plugins", {})) or "none", ""),
             "network": (table["network"]["kind"], "")}
    if run is not None:
        several = len(run.plugins) > 1
        options = [f"{label(plugin)}.{option}" if several else option
                   for plugin in run.plugins for option in settings.options(plugin)]
        parts = {"method": (method, ", ".join(settings.options(run.method))),
                 "plug-ins": (", ".join(map(label, run.plugins)) or "none", ", ".join(options)),
                 "network": (kind(run.network), ", ".join(settings.options(run.network)))}
    data, precision = table["data"], table.get("precision", "float32")
    more = [] if precision == "float32" else [precision]
    same = [*(["ZCA"] if data.get("zca") else []), card["data"]["fingerprint"]]
    return {**parts, "data": (settings.data_name(card), ", ".join(same)),
            "ipc": (str(card["ipc"]), ", ".join(more)), "seed": (str(table["seed"]), "")}


def _used(groups: tuple[settings.Group, ...], card: Mapping[str, Any]) -> tuple[settings.Group, ...]:
    """The settings without shares of images to hold out where none were, because the data have splits of their own."""
    unused = {"test", "validation"} - set(card["data"].get("held_out", ("test", "validation")))
    return tuple(group if group.title != "data" else group._replace(rows=tuple(
        row for row in group.rows if row.name not in unused)) for group in groups)


def _data(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of the data and of how they were split, and what was said of them before the work."""
    data, table = card["data"], card["run"]["data"]
    described = settings.read(Data, table)
    facts = [("data", f"{settings.data_name(card)} (source {data['name']})"), ("fingerprint", data["fingerprint"])]
    group = getattr(described and described.source, "group", "")
    for split, counts in data.get("images", {}).items():
        text = per_class(card["classes"], counts)
        if split in data.get("held_out", ()):
            text += f"; held out by datastill at random, {words.percent(table[split])} of each class"
            text += f", images of one {group} together" if group else ""
        facts.append((f"{split} images per class", text))
    return [*facts, *(("caution", text) for text in data.get("said", ()))]


def _facts(card: dict[str, Any], log: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    shape = " × ".join(map(str, card["shape"]))
    copies = f"; {card['copies']} of them repeat another one" if "copies" in card else ""
    facts = [("images", f"{card['count']} of {shape} (channels × height × width), {card['labels']} labels{copies}"),
             ("normalization", f"mean {settings.text(card['mean'])}; std {settings.text(card['std'])}"),
             ("run digest", card["digest"]),
             ("versions", ", ".join(f"{name} {version}" for name, version in card["versions"].items())),
             *((f"passes, {name}", form) for name, form in card.get("computed", {}).get("speed", {}).items())]
    if card.get("learning_rate") is not None:
        facts.insert(1, ("learned learning rate", f"{card['learning_rate']:.4g}"))
    if "started_from" in card:
        facts.append(("started from the set of run", card["started_from"]["digest"]))
    if card.get("protocol") is not None:
        facts.append(("intended protocol", settings.short_table(Protocol, card["protocol"])))
    if len(log) > 1:
        took = words.duration(log[-1]["time"] - log[0]["time"])
        before = " and of training or reading teachers" if _has_teachers(card) else ""
        facts.append(("distilled in", f"{took}, from the first to the last iteration, including pauses; without the time of "
                                      f"loading{before}"))
    return facts


def _has_teachers(card: Mapping[str, Any]) -> bool:
    return any("teachers" in facts for facts in card.get("prepared", {}).values())
