"""The commands ``datastill analyse ...``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from datastill.errors import InputError
from datastill.options import DATA_ROOT, ROOT, DataPath, DataRoot, Device, Force, Interrupt, Root, command, say

app = typer.Typer(no_args_is_help=True, help="Analyze teachers and distilled sets beyond students' accuracy.")


@command(app, name="teachers")
def analyse_teachers(pool: Annotated[str, typer.Argument(metavar="POOL", help="As for `datastill teach`.")],
                     changes: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
                     count: Annotated[int, typer.Option(min=2, help="Images to compare them on.")] = 1000,
                     data_root: DataRoot = DATA_ROOT, root: Root = ROOT, device: Device = None) -> None:
    """Show how different the teachers of a pool are: accuracy, images predicted differently, linear CKA of features.

    Uses validation images if the data hold some out (data.validation=0.1), training images otherwise. Missing teachers are
    trained.
    """
    from datastill import console
    from datastill.analysis.diversity import diversity
    from datastill.recipes import read_pools
    from datastill.workspace import Workspace

    pools, data, _ = read_pools(pool, changes or [])
    workspace = Workspace(root, data_root, device)
    splits = workspace.load(data)
    images = splits.train if splits.validation is None else splits.validation
    for one in pools:
        console.show_diversity(diversity(workspace.teach(one, data), images.to(workspace.device), count),
                               "training" if splits.validation is None else "validation")


@command(app, name="sets")
def analyse_sets(folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of finished runs.")],
                 pool: Annotated[str | None, typer.Option(help="Teachers that judge, as for `datastill teach`. Default: one "
                                 "of kind supervised with seed 1000.")] = None,
                 settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the "
                                     "pool, such as pool.count=2. May be repeated.")] = None,
                 data_path: DataPath = None,
                 data_root: DataRoot = DATA_ROOT, root: Root = ROOT, device: Device = None) -> None:
    """Show how well teachers recognize sets during distillation, and how that correlates with the scores.

    Judges the snapshots of each run (`distill --keep` stores more than the first and the last). For several runs, also gives
    the rank correlation with test accuracy. Choose teachers that took no part in the runs, or they judge their own work.
    """
    from datastill import console, sheets
    from datastill.statistics import rank_correlation
    from datastill.workspace import Workspace

    workspace = Workspace(root, data_root, device)
    with console.progress("sets", ", ".join(map(str, folders))) as bar, Interrupt(bar):
        judged = workspace.judge(folders, settings or [], pool, data_path=data_path, progress=bar)
    last, scores = [], []
    for folder, found in zip(folders, judged, strict=True):
        if scored := [sheet for sheet in sheets.read_sheets(folder) if sheet["split"] == "test"]:
            last.append(found[-1].cross_entropy)
            scores.append(scored[0]["summary"]["synthetic"]["mean"])
    rows = [(folder.name, one) for folder, found in zip(folders, judged, strict=True) for one in found]
    console.show_judged(rows, rank_correlation(last, scores))


@command(app, name="theory")
def analyse_theory(fractions: Annotated[str, typer.Option(help="Kept fractions, between 0 and 1.")] = "0.05,0.2,0.5",
                   angles: Annotated[str, typer.Option(help="Degrees between the probe that ranks samples and the teacher; "
                                     "0 is a perfect one.")] = "0,20,40",
                   trials: Annotated[int, typer.Option(min=0, help="Finite students beside the curves.")] = 0,
                   out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("theory.html"),
                   force: Force = False) -> None:
    """Show when easy samples beat hard ones in theory: test error of a student on a kept fraction, and where they cross.

    The pruned teacher-student perceptron (Sorscher et al. 2022). Takes about a minute and a half.
    """
    from datastill import console
    from datastill.analysis.theory import curves
    from datastill.report.theory import render

    page = _Page(out, force)
    page.ready()
    with console.progress("theory", str(out)) as bar, Interrupt(bar):
        found = curves(_numbers(fractions, "--fractions"), _numbers(angles, "--angles"), trials=trials, maps=True,
                       progress=bar)
    page.write(render(found), "Theory")


@command(app, name="difficulty")
def analyse_difficulty(what: Annotated[str, typer.Argument(metavar="DIR|DATA", help="The folder of a finished run, or a "
                                                           "dataset such as cifar10.")],
                       settings: Annotated[list[str] | None, typer.Argument(
                           metavar="[KEY=VALUE]...", help="Of the pool of networks, as in pool.count=3, and for a dataset "
                                                          "of the data, as in data.path=FOLDER.")] = None,
                       pool: Annotated[str, typer.Option(help="The networks that tell: a kind of pool.")] = "early",
                       count: Annotated[int, typer.Option(min=0, help="Random real images to score; 0: all.")] = 1000,
                       scores: Annotated[Path | None, typer.Option(help="Somebody else's scores of all training images "
                                         "of DATA, in their order (.npy, .npz, .csv), to compare with.")] = None,
                       out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("difficulty.html"),
                       force: Force = False, data_path: DataPath = None,
                       data_root: DataRoot = DATA_ROOT, root: Root = ROOT, device: Device = None) -> None:
    """Show how hard images are: gradient norm, error, mistakes and forgetting, of a dataset or along a run.

    The networks (by default ten, trained for five epochs) are trained if they are missing. Of a run, all snapshots are
    scored: `distill --keep 10,100` stores more than the first and the last.
    """
    from datastill import console
    from datastill.data.source import Source
    from datastill.registry import names
    from datastill.report.difficulty import render
    from datastill.store import CARD
    from datastill.workspace import Workspace

    folder = Path(what) if Path(what).is_dir() and ((Path(what) / CARD).exists() or what not in names(Source)) else None
    page = _Page(out, force, [] if folder is None else [folder])
    if folder is None and data_path is not None:
        raise InputError("--data-path says where the data of a finished run are; of a dataset, set data.path=PATH")
    if folder is None and "/" in what:
        raise InputError(f"no folder {what}; expected that of a finished run, or a dataset such as cifar10")
    if folder is not None and scores is not None:
        raise InputError("--scores compares scores of a whole dataset; give a dataset such as cifar10 instead of a folder")
    workspace = Workspace(root, data_root, device)
    page.ready()
    with console.progress("difficulty", what) as bar, Interrupt(bar):
        found = workspace.difficulty(what if folder is None else folder, settings or [], pool, count=count, scores=scores,
                                     data_path=data_path, progress=bar)
    console.show_difficulty(found)
    page.write(render(found, what), "Difficulty")


@command(app, name="meta-features")
def analyse_meta_features(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
                          settings: Annotated[list[str] | None, typer.Argument(
                              metavar="[KEY=VALUE]...", help="Of the pool of networks, as in "
                              "pool.networks=convnet,resnet18,vgg11,vit.")] = None,
                          pool: Annotated[str, typer.Option(help="The networks that look: a kind of pool.")] = "supervised",
                          count: Annotated[int, typer.Option(
                              min=0, help="Random real images to compare with; 0: all.")] = 200,
                          out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("meta-features.html"),
                          force: Force = False, data_path: DataPath = None,
                          data_root: DataRoot = DATA_ROOT, root: Root = ROOT, device: Device = None) -> None:
    """Show what networks of several architectures see alike in a set, by activation maps: overlap, areas, maps over images.

    The networks are trained if they are missing. Choose some that took no part in the run: those are what a set is for.
    """
    from datastill import console
    from datastill.report.meta_features import render
    from datastill.workspace import Workspace

    page = _Page(out, force, [folder])
    workspace = Workspace(root, data_root, device)
    page.ready()
    with console.progress("meta-features", str(folder)) as bar, Interrupt(bar):
        found = workspace.meta_features(folder, settings or [], pool, count=count, data_path=data_path, progress=bar)
    console.show_meta_features(found)
    page.write(render(found, str(folder)), "Meta features")


@command(app, name="erasing")
def analyse_erasing(what: Annotated[str, typer.Argument(metavar="DATA", help="A dataset such as cifar10.")],
                    settings: Annotated[list[str] | None, typer.Argument(
                        metavar="[KEY=VALUE]...", help="Of the pool, as in pool.networks=convnet,resnet18,vit, and of the "
                        "data, as in data.path=FOLDER.")] = None,
                    pool: Annotated[str, typer.Option(help="The networks that look, and whose architectures learn.")] =
                    "supervised",
                    count: Annotated[int, typer.Option(min=1, help="Random training images to learn from.")] = 5000,
                    threshold: Annotated[float, typer.Option(help="From which value of a map on something is seen.")] = 0.5,
                    epochs: Annotated[int, typer.Option(min=1, help="Of each student.")] = 20,
                    trials: Annotated[int, typer.Option(min=1, help="Students in each case.")] = 3,
                    data_root: DataRoot = DATA_ROOT, root: Root = ROOT, device: Device = None) -> None:
    """Erase from real images what networks see alike, or what only some see, and train their architectures on the rest.

    The networks are trained if they are missing. Every student is kept: after a stop it goes on where it was.
    """
    from datastill import console
    from datastill.workspace import Workspace

    workspace = Workspace(root, data_root, device)
    with console.progress("erasing", what) as bar, Interrupt(bar):
        found = workspace.erasing(what, settings or [], pool, count=count, threshold=threshold, epochs=epochs, trials=trials,
                                  progress=bar)
    console.show_erasing(found)


@command(app, name="statistics")
def analyse_statistics(folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of finished runs of "
                                                                     "methods that recover images, such as sre2l.")],
                       out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("statistics.html"),
                       force: Force = False, data_path: DataPath = None,
                       data_root: DataRoot = DATA_ROOT, root: Root = ROOT, device: Device = None) -> None:
    """Show what the batch normalization of the runs' teachers remembers of real images, and what it gave to the recovery.

    Raw and scale-free, with the control: the same network with other scales inside.
    """
    from datastill import console
    from datastill.analysis.statistics import informative
    from datastill.report.statistics import render
    from datastill.run import read_run
    from datastill.workspace import Workspace

    page = _Page(out, force, folders)
    workspace = Workspace(root, data_root, device)
    page.ready()
    found = []
    for folder in folders:
        real = workspace.load_of(folder, data_path).train.to(workspace.device)
        found.append(informative(folder, read_run(folder).task(real, root=root, data_root=data_root)))
    console.show_statistics(found)
    page.write(render(found), "Statistics")


class _Page:
    """The HTML file that an analysis writes: checked before the work, written after it."""

    def __init__(self, out: Path, force: bool, folders: Sequence[Path] = ()) -> None:
        """Raises InputError if it is no such file, would replace one that is none, or is a part of a set's folder."""
        from datastill.outputs import check_apart, check_named, check_output, is_page

        self.out = out
        check_named(out, "a page of datastill", ".html", ".htm")
        check_output(out, "a page of datastill", is_page, force)
        for folder in folders or (None,):
            check_apart(out, folder)

    def ready(self) -> None:
        """Make its folder, when everything else has been checked."""
        from datastill.files import make_folder

        make_folder(self.out.parent)

    def write(self, content: str, name: str) -> None:
        """Write it, and say where it is."""
        from datastill.files import write_atomically

        write_atomically(self.out, content.encode())
        say(f"{name}: {self.out}")


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(one) for one in text.split(",")]
    except ValueError:
        raise InputError(f"{option}: expected numbers separated by commas, got {text!r}") from None
