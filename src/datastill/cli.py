"""The command line: ``datastill`` or ``python -m datastill``. Thin: each command says what to do and prints the result."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from datastill import analyses
from datastill.errors import InputError, RunError, Stopped, one_line
from datastill.options import (
    DATA_ROOT,
    ROOT,
    Changes,
    DataPath,
    DataRoot,
    Device,
    Folder,
    Force,
    Interrupt,
    Portable,
    RecipeName,
    Root,
    command,
    say,
)

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown",
    help="Distill a dataset into a few images per class, and report honestly how good they are.\n\n"
         "Start with `datastill quickstart`. Then: `datastill list recipes`, `datastill distill RECIPE`, "
         "`datastill evaluate DIR`, `datastill report DIR`.")


app.add_typer(analyses.app, name="analyse")
app.add_typer(analyses.app, name="analyze", hidden=True)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version
        print(version("datastill"))
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                                   help="Print the version.")] = False) -> None:
    pass


@command(app)
def quickstart(out: Annotated[Path | None, typer.Option(
        help="Folder for the run and the report. Default: ROOT/quickstart.")] = None,
        root: Root = ROOT, device: Device = None) -> None:
    """Distill handwritten digits to one image per class, score them against random real images, and write the report.

    Takes about half a minute on two cores; needs no files and no internet connection.
    """
    from datastill.files import make_folder
    from datastill.outputs import check_output, is_page
    from datastill.place import Place

    out = out or root / "quickstart"
    run_folder, page = out / "dm-digits-ipc1", out / "report.html"
    check_output(page, "a page of datastill", is_page, else_="move it away, or choose another --out")
    make_folder(Place(out).baselines)
    distill("dm/digits-ipc1", [], run_folder, DATA_ROOT, ROOT, device)
    evaluate(run_folder, ["convnet:width=32", "mlp"], None, data_root=DATA_ROOT, root=out, device=device)
    report([run_folder], page)
    say("Next: `datastill list recipes`, or your own images: "
         "`datastill distill dm/own-ipc1 data.path=PATH`")


@command(app)
def distill(recipe: RecipeName, changes: Changes = None,
            out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: ROOT/runs/NAME-DIGEST.")] = None,
            data_root: DataRoot = DATA_ROOT, root: Root = ROOT, device: Device = None, portable: Portable = False,
            every: Annotated[float, typer.Option(min=0.0, help="Seconds between checkpoints.")] = 30.0,
            keep: Annotated[str, typer.Option(help="Iterations to store snapshots of: 100,1000.")] = "") -> None:
    """Distill a dataset. The same command resumes an interrupted run and leaves a finished one alone.

    Examples: `datastill distill dm/cifar10-ipc10`, `datastill distill dm/mnist-ipc1 network=convnet:width=32 seed=3`
    """
    from datastill import console
    from datastill.recipes import read_recipe
    from datastill.workspace import Workspace

    read, snapshots = read_recipe(recipe, changes or []), _whole_numbers(keep)
    workspace = Workspace(root, data_root, device, portable=portable)
    folder = workspace.check_recipe(read, out, snapshots)
    finished = (folder / "card.json").exists()
    if not finished:
        splits = workspace.load(read.run.data)
        print(f"Distilling {read.run.data.name} into {folder}\nImages per class: {console.counts(splits)}", file=sys.stderr)
    with console.progress("distill", str(folder)) as bar, Interrupt(bar):
        workspace.distill(read, folder, every=every, keep=snapshots, progress=bar)
    say(f"{'Already finished' if finished else 'Distilled'}: {folder}")


@command(app)
def evaluate(folder: Folder,
             network: Annotated[list[str] | None, typer.Option(help="Students to train, e.g. convnet:width=32. "
                                "Default: the run's network. May be repeated.")] = None,
             protocol: Annotated[str | None, typer.Option(
                 help="e.g. dc:augment=none,epochs=300. Default: the recipe's.")] = None,
             trials: Annotated[int, typer.Option(min=1, help="Students per network.")] = 5,
             split: Annotated[str, typer.Option(help="test, or validation (for choosing settings).")] = "test",
             seed: Annotated[int, typer.Option(min=0)] = 0,
             full: Annotated[bool, typer.Option(
                 "--full", help="Also train one student on the full data (cached for next time).")] = False,
             snapshots: Annotated[bool, typer.Option(
                 "--snapshots", help="Also score the run's snapshots and report the best: the selection rule of MTT and "
                 "later papers, reported separately.")] = False,
             auroc: Annotated[bool, typer.Option(
                 "--auroc", help="Also show the area under the ROC curve, each class against the rest.")] = False,
             jobs: Annotated[int, typer.Option(
                 min=1, help="Students in parallel, each with its share of the cores.")] = 1,
             controls: Annotated[bool, typer.Option(
                 "--controls/--no-controls", help="Where students learn from teachers: also score real images, chosen at "
                 "random and by the teachers' features, under the same labels and others.")] = True,
             data_path: DataPath = None,
             out: Annotated[Path | None, typer.Option(
                 help="Folder for the scores, if that of the set cannot be written to. Default: DIR/scores.")] = None,
             data_root: DataRoot = DATA_ROOT, root: Root = ROOT, device: Device = None, portable: Portable = False) -> None:
    """Score a distilled set: fresh students, last weights, the whole split, compared with random real images and chance.

    Scores are stored in DIR/scores (or --out); a second call runs only what is missing.
    """
    from datastill import console
    from datastill.artifact import is_selected, read_card
    from datastill.digest import spec
    from datastill.workspace import Workspace

    for name in network or []:
        if "," in name.partition(":")[0]:
            raise InputError(f"--network {name}: expected one kind of student; repeat the option: "
                             f"{' '.join(f'--network {one}' for one in name.split(','))}")
    card = read_card(folder)  # before torch is imported for the device
    workspace = Workspace(root, data_root, device, portable=portable)
    evaluations = workspace.evaluations(folder, network or [], protocol, split=split, seed=seed,  # type: ignore[arg-type]
                                        data_path=data_path)
    for evaluation in evaluations:
        with console.progress("score", spec(evaluation.network)) as bar, Interrupt(bar):
            sheet = workspace.score(folder, evaluation, trials=trials, full=full, snapshots=snapshots, out=out,
                                    jobs=jobs, controls=controls, progress=bar)
        console.show_sheet(sheet, auroc, is_selected(card))


@command(app)
def relabel(folder: Folder,
            protocol: Annotated[str | None, typer.Option(
                help="One whose students learn stored labels, e.g. soft_labels:relabel.store=true. Default: the "
                "recipe's.")] = None,
            seed: Annotated[int, typer.Option(min=0, help="Of the students that will learn them.")] = 0,
            plan: Annotated[bool, typer.Option("--plan", help="Only show how large they will be.")] = False,
            data_path: DataPath = None,
            out: Annotated[Path | None, typer.Option(
                help="Folder of the scores, as for evaluate, if that of the set cannot be written to.")] = None,
            data_root: DataRoot = DATA_ROOT, root: Root = ROOT, device: Device = None) -> None:
    """Store the teachers' labels of every view of a distilled set that its students will see, in DIR/labels.

    `datastill evaluate` does this by itself; the same command resumes after an interruption.
    """
    from datastill import console
    from datastill.artifact import read_card
    from datastill.workspace import Workspace

    read_card(folder)  # before torch is imported for the device
    workspace = Workspace(root, data_root, device)
    (evaluation,) = workspace.evaluations(folder, [], protocol, seed=seed, data_path=data_path)
    size, epochs = workspace.size_of_labels(folder, evaluation)
    what = f"labels of {epochs} epochs"
    if plan:
        say(f"{what}: {console.size(size)}")
        return
    with console.progress("relabel", str(folder)) as bar, Interrupt(bar):
        labels = workspace.relabel(folder, evaluation, out=out, progress=bar)
    say(f"Stored {what} ({console.size(labels.nbytes)}, forecast {console.size(size)}): {labels.folder}")


@command(app)
def report(folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of finished runs.")],
           out: Annotated[Path | None, typer.Option(
               help="The HTML file. Default: DIR/report.html for a single run, report.html for several.")] = None,
           scores: Annotated[Path | None, typer.Option(
               help="Folder of the scores, if they are not beside the set (`evaluate --out`).")] = None,
           force: Force = False) -> None:
    """Write one self-contained HTML page about one or more runs: images, curves, scores, how to reproduce."""
    from datastill.workspace import Workspace
    say(f"Report: {Workspace.report(folders, out, scores=scores, force=force)}")


@command(app)
def plan(recipe: RecipeName, changes: Changes = None, trials: Annotated[int, typer.Option(min=1)] = 5,
         data_root: DataRoot = DATA_ROOT, root: Root = ROOT, device: Device = None, portable: Portable = False) -> None:
    """Show what a run will do and what it will take, estimated from a few iterations; nothing is written."""
    from datastill import console
    from datastill.recipes import read_recipe
    from datastill.workspace import Workspace
    read, workspace = read_recipe(recipe, changes or []), Workspace(root, data_root, device, portable=portable)
    with console.progress("plan", recipe) as bar:
        found = workspace.plan(read, bar, lambda rough: console.say_rough(rough.distill, 2 * trials * rough.student))
    console.show_plan(read, workspace.load(read.run.data), found, trials, str(workspace.device))


@command(app, name="tune-speed")
def tune_speed(recipe: RecipeName, changes: Changes = None, root: Root = ROOT, data_root: DataRoot = DATA_ROOT,
               device: Device = None) -> None:
    """Measure which form of each pass through the network is fastest on this machine: how many images at once, which code,
    which memory layout, compiled or not.

    Long runs do this by themselves, once; what is found is kept in ROOT/speed for all later work.
    """
    from datastill import console
    from datastill.nets.choices import SPEED
    from datastill.recipes import read_recipe
    from datastill.workspace import Workspace
    read, workspace = read_recipe(recipe, changes or []), Workspace(root, data_root, device)
    with console.progress("tune-speed", recipe) as bar:
        found = workspace.tune_speed(read, bar)
    console.show_speed(found, root / SPEED)


@command(app)
def tune(recipe: RecipeName, changes: Changes = None,
         network: Annotated[list[str] | None, typer.Option(help="Kinds of students, e.g. resnet18:width=16. Default: the "
                            "recipe's network. May be repeated.")] = None,
         protocol: Annotated[str, typer.Option(help="The protocol to vary.")] = "tuned",
         vary: Annotated[list[str] | None, typer.Option("--try", help="A setting of the protocol and the values to try: "
                         "lr=0.003,0.01,0.03. May be repeated; all combinations are tried.")] = None,
         trials: Annotated[int, typer.Option(min=1, help="Students per combination.")] = 3,
         seed: Annotated[int, typer.Option(min=0)] = 0,
         data_root: DataRoot = DATA_ROOT, root: Root = ROOT, device: Device = None, portable: Portable = False) -> None:
    """Find out how to train a kind of student on few images, using random real images of a recipe's data and ipc.

    Measured on validation images (a tenth of the training images, or what data.validation says), never on the test set.
    The same command resumes after an interruption. Then: `datastill evaluate DIR --protocol tuned:lr=...`.
    """
    from datastill import console
    from datastill.core import Protocol
    from datastill.description import load as describe
    from datastill.digest import spec
    from datastill.nets import Architecture
    from datastill.recipes import read_recipe
    from datastill.tuning import grid
    from datastill.workspace import Workspace

    run = read_recipe(recipe, changes or []).run
    protocols = grid(describe(Protocol, protocol), vary or [])  # type: ignore[type-abstract]
    students = [describe(Architecture, name) for name in network or [spec(run.network)]]  # type: ignore[type-abstract]
    workspace = Workspace(root, data_root, device, portable=portable)
    splits = workspace.tuning_splits(run.data, students, run.ipc)
    assert splits.validation is not None
    for student in students:
        with console.progress("tune", spec(student)) as bar, Interrupt(bar):
            tried = workspace.tune(protocols, student, run.data, run.ipc, trials=trials, seed=seed, progress=bar)
        console.show_tried(tried, [one.partition("=")[0].strip() for one in vary or []], spec(student),
                           1 / len(splits.train.classes), len(splits.validation), f"{run.data.name}, ipc {run.ipc}")


@command(app)
def teach(pool: Annotated[str, typer.Argument(
              metavar="POOL", help="A recipe whose plug-ins use teachers, a TOML file with a table [pool], or a kind of "
              "pool (`datastill list pools`).")],
          changes: Annotated[list[str] | None, typer.Argument(
              metavar="[KEY=VALUE]...", help="Changes to the recipe, or to pool and data: `pool.count=5 "
              "data.source=cifar10`.")] = None,
          jobs: Annotated[int, typer.Option(
              min=1, help="Teachers to train in parallel, each with its share of the cores.")] = 1,
          retrain: Annotated[bool, typer.Option("--retrain", help="Train damaged teachers again.")] = False,
          data_root: DataRoot = DATA_ROOT, root: Root = ROOT, device: Device = None, portable: Portable = False) -> None:
    """Train the teachers of a pool ahead of time; the same command resumes after an interruption.

    Example: `datastill teach supervised 'pool.networks=["convnet:width=32"]' pool.epochs=10 data.source=cifar10`
    """
    from datastill import console
    from datastill.recipes import read_pools
    from datastill.workspace import Workspace

    pools, data, run = read_pools(pool, changes or [])
    workspace = Workspace(root, data_root, device, portable=portable)
    if run is not None and not retrain:
        workspace.check(run)
    for one in pools:
        with console.progress("teach", data.name) as bar, Interrupt(bar):
            teachers = workspace.teach(one, data, jobs=jobs, retrain=retrain, progress=bar)
        console.show_teachers(teachers)


@command(app)
def study(name: Annotated[str, typer.Argument(metavar="STUDY", help="A study (`datastill list studies`), or a TOML file.")],
          edition: Annotated[str, typer.Option(help="For example small or paper. Default: no edition.")] = "",
          jobs: Annotated[int, typer.Option(min=1, help="Runs in parallel, each with its share of the cores.")] = 1,
          plan: Annotated[bool, typer.Option("--plan", help="Only show what would run and how long it would take.")] = False,
          data_root: DataRoot = DATA_ROOT, root: Root = ROOT, device: Device = None, portable: Portable = False) -> None:
    """Answer a question with paired comparisons: run the missing teachers, runs and students, then make tables and figures.

    The same command resumes after an interruption; runs are shared by all studies under the same root.
    """
    from datastill import console
    from datastill.studies import load_study
    from datastill.workspace import Workspace

    read, title = load_study(name, edition)
    workspace = Workspace(root, data_root, device, portable=portable)
    if plan:
        with console.progress("plan", title) as bar:
            foreseen = workspace.foresee(read, bar, lambda rough: console.say_rough(rough.runs_and_students))
        console.show_foreseen(foreseen, jobs)
        return
    with console.progress("study", title) as bar, Interrupt(bar):
        results = workspace.study(read, title, jobs=jobs, progress=bar)
    console.show_results(results)
    say(f"Report: {workspace.study_folder(title) / 'index.html'}")


def _listable() -> list[str]:
    """What can be listed."""
    from datastill.listing import families
    return [*families(), "recipes", "studies"]


@command(app, name="list")
def list_(what: Annotated[str, typer.Argument(
        metavar="WHAT", help="methods, plugins, data, networks, pools, parametrizations, protocols, recipes or studies",
        autocompletion=_listable)]) -> None:
    """List the known methods, plugins, data, networks, pools, parametrizations, protocols, recipes or studies."""
    from datastill import listing
    from datastill.tables import nearest
    if not listing.show_list(what):
        raise InputError(f"cannot list {what!r}{nearest(what, _listable())}")


@command(app)
def show(name: Annotated[str, typer.Argument(
        metavar="NAME", help="A recipe, method, plug-in, network, dataset, protocol, module:Class, or run, data, optim.",
        )]) -> None:
    """Show what a name means: its settings with their defaults, or the recipe's text."""
    from datastill import listing
    from datastill.recipes import recipe_names, recipe_path
    from datastill.registry import names, preset, presets
    from datastill.studies import study_names, study_path
    from datastill.tables import near, read_text
    families, known = listing.families(), name.lower()
    texts = [path(name) for path, listed in ((recipe_path, recipe_names()), (study_path, study_names())) if name in listed]
    members = [(*preset(family, known), known if known in presets(family) else "")
               for family in families.values() if ":" not in name and known in names(family)]
    if ":" in name:
        members = [(listing.outside(name), {}, "")]
    if known in listing.parts():
        members = [(listing.parts()[known], {}, "")]
    if name.endswith(".toml"):
        texts = [recipe_path(name)]
    if not members and not texts and listing.show_list(known):
        return
    if not members and not texts:
        listed = [*listing.parts(), *recipe_names(), *study_names(),
                  *(n for family in families.values() for n in names(family))]
        hint = near(name, listed) or \
            "; see datastill list recipes, methods, plugins, data, networks, pools, studies; your own class: module:Class"
        raise InputError(f"unknown name {name!r}{hint}")
    for member, settings, called in members:
        listing.show_member(member, settings, called)
    for path in texts:
        say(read_text(path).rstrip())


@command(app)
def export(folder: Folder, out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, or a file.npz.")],
           to: Annotated[str, typer.Option(help="images or npz. Default: npz if OUT ends in .npz.")] = "",
           force: Force = False) -> None:
    """Export a distilled set to an image folder (PNG by class, labels.csv) or to one .npz file."""
    from datastill.artifact import load
    from datastill.export import to_folder, to_npz
    from datastill.outputs import check_named
    from datastill.tables import counted
    form = to or ("npz" if out.suffix.lower() == ".npz" else "images")
    if not to:
        check_named(out, "a folder of images or a file.npz", ".npz")
    if form not in ("images", "npz"):
        raise InputError(f"--to: expected images or npz, got {form!r}")
    distilled = load(folder)
    place = to_npz(distilled, out, force=force) if form == "npz" else to_folder(distilled, out)
    say(f"Exported {counted(len(distilled), 'image')}: {place}")


@command(app)
def merge(folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of all parts, finished.")],
          out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the whole set.")]) -> None:
    """Merge a set that was distilled in parts, for example with shard=[0,2] and shard=[1,2]."""
    from datastill.shards import merge as put_together
    from datastill.tables import counted
    say(f"Merged {counted(len(put_together(folders, out)), 'image')}: {out}")


# --- helpers -----------------------------------------------------------------------------------------------------------


def _whole_numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--keep: expected iterations such as 100,1000, got {text!r}")
    return tuple(map(int, parts))


class _Cautions(logging.Handler):
    """Shows what the library logs as the command line shows its other warnings, each text only once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        from datastill import console
        if (text := record.getMessage()) not in self.said:
            self.said.add(text)
            console.caution(text)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 a run that cannot continue, 2 bad input, 128 + signal when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # do not fail if the terminal cannot print a letter of a path
    # Set before torch is loaded: a waiting thread of GNU OpenMP spins briefly, then sleeps. On idle cores that costs little.
    # On cores shared with other work, long spinning keeps the working threads from running: ten times slower at worst.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    logging.getLogger("datastill").addHandler(cautions := _Cautions())
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # so that module:Class is found in the working folder
    try:
        _see_no_empty(sys.argv[1:])
        _parse_and_run()
    except InputError as error:
        _fail(str(error), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader closed the pipe, as `| head` does
    except Stopped as error:
        _fail(str(error), error.code)
    except RunError as error:
        _fail(str(error), 1)
    except OSError as error:
        from datastill.files import IMPOSSIBLE, reason
        _fail(f"{error.filename or 'input or output'}: {reason(error)}", 2 if error.errno in IMPOSSIBLE else 1)
    except KeyboardInterrupt:
        _fail("stopped immediately; finished work is kept", 130)
    finally:
        logging.getLogger("datastill").removeHandler(cautions)


def _parse_and_run() -> None:
    """Run the command; what the parser refuses is one line, as every other bad input. Raises InputError, and what commands
    raise."""
    try:
        sys.exit(app(prog_name="datastill", standalone_mode=False) or 0)
    except Exception as error:
        if type(error).__name__ == "Abort":
            raise KeyboardInterrupt from None
        if not hasattr(error, "format_message"):  # not the parser's, of typer's own click or of one that is installed
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            sys.exit(2)
        where = getattr(error, "ctx", None)
        command_ = "datastill" if where is None else where.command_path
        raise InputError(f"{error.format_message().rstrip('.')}; see {command_} --help") from None


def _see_no_empty(arguments: list[str]) -> None:
    """Reject empty arguments, such as those of a variable that is not set: a path would be that of the working folder, and
    other values would count as not given."""
    for before, given in zip(["", *arguments], arguments, strict=False):
        if not given or re.fullmatch("--[a-z-]+=", given):
            option = given[:-1] or before
            what = f"the value of {option}" if option.startswith("--") else "an argument"
            raise InputError(f"{what} is empty; give one, or leave it out")


def _fail(text: str, code: int) -> None:
    print(f"datastill: {one_line(text)}", file=sys.stderr)
    sys.exit(code)
