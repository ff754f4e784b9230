"""Everything the command line does, for Python: distill, teach, score, tune, plan, studies and reports in one place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datastill.analyzing import Analyzing
from datastill.arguments import checked
from datastill.artifact import CARD, TENSORS, load, read_card
from datastill.core import Labeler, Protocol
from datastill.data import Data, Splits
from datastill.description import load as describe
from datastill.description import load_each
from datastill.digest import spec
from datastill.errors import InputError
from datastill.files import make_folder
from datastill.label_store import Labels, forecast
from datastill.nets import Architecture
from datastill.nets.choices import SPEED
from datastill.outputs import check_apart
from datastill.place import images_of
from datastill.plan import Plan
from datastill.plan import plan as try_out
from datastill.progress import Progress
from datastill.protocols.dc import DC
from datastill.protocols.soft_labels import SoftLabels
from datastill.recipes import Recipe, read_recipe
from datastill.rng import RNG
from datastill.run import Run, check_protocol, read_run, run_table
from datastill.running import distill, labeler, see_apart
from datastill.scoring import Evaluation, Split, check_alike, check_student
from datastill.selection import check_snapshots, select
from datastill.speed import Timed, tune_speed
from datastill.study import Study
from datastill.study_run import Foreseen, foresee, run_study
from datastill.tables import counted, shown
from datastill.teachers import Pool, Teachers
from datastill.trials import labels_of, missing, score, train_ahead
from datastill.tuning import Tried, check_tuning, tune

if TYPE_CHECKING:
    import torch

    from datastill.distilled import Distilled


class Workspace(Analyzing):
    """Where things run: a folder for results (``root``), one for datasets (``data_root``), a device.

    Finished work under the root is reused: runs, teachers, scores, baselines and studies are shared by everything done
    there. Data is loaded once. Raises InputError if there is no such device.

    >>> workspace = Workspace("results", ".", "cpu")
    >>> recipe = read_recipe("dm/digits-ipc1", ["method.iterations=2", "network=mlp:width=8", "protocol.epochs=1"])
    >>> folder = workspace.distill(recipe)
    >>> sorted(workspace.score(folder, trials=1)["summary"])
    ['gain', 'random', 'synthetic']
    """

    def __init__(self, root: Path | str = "outputs", data_root: Path | str = "data", device: Any = None, *,
                 portable: bool = False) -> None:
        super().__init__(root, data_root, device, portable=portable)
        self.device  # noqa: B018 - fails at once if there is none

    @checked
    def check_recipe(self, recipe: Recipe | Run | str, folder: Path | None = None, keep: Collection[int] = ()) -> Path:
        """Check that ``distill`` can start. Returns the folder of the run; raises InputError."""
        read = _recipe(recipe)
        folder = self._folder(read, folder, keep)
        self.check(read.run)
        return folder

    def _folder(self, read: Recipe, folder: Path | None, keep: Collection[int]) -> Path:
        """The folder of a run, if it can contain these snapshots."""
        if beyond := [number for number in keep if number > read.run.method.iterations]:
            raise InputError(f"--keep {beyond[0]}: the run has {counted(read.run.method.iterations, 'iteration')}")
        check_protocol(read.run, read.protocol)
        folder = folder or self.run_folder(read.run)
        see_apart(folder, read.run, self.data_root)
        if (folder / CARD).exists() and (lacking := [
                number for number in keep if not (folder / "snapshots" / f"{number:06d}.safetensors").exists()]):
            raise InputError(f"{folder} is finished and has no snapshot of iteration {lacking[0]}; distill into another "
                             "--out to get it")
        return folder

    @checked
    def distill(self, recipe: Recipe | Run | str, folder: Path | None = None, *, every: float = 30.0,
                keep: Collection[int] = (), progress: Progress | None = None) -> Path:
        """Distill a recipe, by name or already read, or a run of your own. Returns the folder, by default
        ``root/runs/NAME-DIGEST``. Options and errors as in ``datastill.distill``."""
        read = _recipe(recipe)
        folder = self._folder(read, folder, keep)
        distill(read.run, self.load(read.run.data).train.to(self.device), folder, root=self.root, data_root=self.data_root,
                every=every, keep=keep, about=None if isinstance(recipe, Run) else read.about(), progress=progress,
                portable=self.portable)
        return folder

    @checked
    def teach(self, pool: Pool, data: Data, *, jobs: int = 1, retrain: bool = False,
              progress: Progress = Progress()) -> Teachers:
        """Train the teachers of a pool for runs on this data, ``jobs`` at a time; with ``retrain``, damaged ones again.
        Returns them. Raises InputError, RunError."""
        pool, data = describe(Pool, pool), describe(Data, data)  # type: ignore[type-abstract]
        context = self.context(data)
        if retrain:
            pool.mend(context)
        pool.check(context)
        self.make_teachers([(pool, data)], self.executor(jobs), progress)
        return Teachers(pool, context)

    @checked
    def evaluations(self, folder: Path, networks: Sequence[Architecture | str] = (),
                    protocol: Protocol | str | None = None, *, split: Split = "test", seed: int = 0,
                    data_path: Path | str | None = None) -> list[Evaluation]:
        """How to score a distilled set, one evaluation for each kind of student; by default the run's network and the
        recipe's protocol. data_path: where its data are now, if they were moved; their fingerprint must be the same.
        Everything is checked before anything is trained; raises InputError."""
        card = load(folder).card
        usual = card.get("protocol", DC())
        how = describe(Protocol, usual if protocol is None else protocol)  # type: ignore[type-abstract]
        students = load_each(Architecture, networks, "networks") or [describe(Architecture, card["run"]["network"])]  # type: ignore[type-abstract]
        splits = self.load_of(folder, data_path)
        train, images = splits.train.to(self.device), images_of(splits, split).to(self.device)
        path = None if data_path is None else Path(data_path)
        how = self.protocol_of(folder, how)
        found = [Evaluation(how, student, train, images, split, seed, path, self.root,
                            self.data_root) for student in students]
        for one in found:
            check_student(one.network, images)
            one.protocol.check(one.context(), one.network)
        return found

    @staticmethod
    def protocol_of(folder: Path, protocol: Protocol) -> Protocol:
        """The protocol with what it takes from the method of the set in a folder (its teachers)."""
        with suppress(InputError):  # its method cannot be imported
            run = read_run(folder)
            return protocol.for_method(run.method, run.network)
        return protocol

    @checked
    def score(self, folder: Path, evaluation: Evaluation | None = None, *, trials: int = 5, full: bool = False,
              snapshots: bool = False, out: Path | None = None, jobs: int = 1, controls: bool = True,
              progress: Progress = Progress()) -> dict[str, Any]:
        """Score a distilled set beside random real images and chance. Returns its sheet (see ``trials.score``).

        evaluation: one of ``evaluations``, by default the first. full: one student on the full data too.
        snapshots: select the best snapshot too, under ``selected`` (see ``selection.select``). out: folder for the sheet, by
            default ``folder/scores``; for sets in a folder that cannot be written to. jobs: students to train in parallel,
            each with its share of the cores; small networks leave cores idle otherwise. Needs data that can be loaded.
            controls: under a protocol with teachers also score what tells labels and images apart (``trials.controls_of``).
        """
        if out is not None:
            check_apart(out, folder)
            if any((out / name).exists() for name in (CARD, "run.toml")):
                raise InputError(f"{out} is the folder of a set; choose another --out for its scores")
        if not isinstance(evaluation, Evaluation | None):
            raise InputError(f"evaluation: expected one of Workspace.evaluations, got {shown(evaluation)}")
        evaluation = evaluation or self.evaluations(folder)[0]
        distilled = load(folder).to(self.device)
        if snapshots:
            check_snapshots(folder)
        labels = self._labeler(folder, distilled, evaluation)
        if jobs > 1:
            evaluation.prepare(progress)
            self._train_ahead(folder, distilled, evaluation, labels, trials, full, out, jobs, controls, progress)
        with self.choosing():
            sheet = score(folder, distilled, evaluation, baselines=self.baselines, scores=out, trials=trials, full=full,
                          labeler=labels, controls=controls, progress=progress)
            if snapshots:
                sheet["selected"] = select(folder, distilled, evaluation, scores=out, trials=trials, progress=progress)
        return sheet

    @checked
    def size_of_labels(self, folder: Path, evaluation: Evaluation) -> tuple[int, int]:
        """Bytes of the stored labels of a set under a protocol, and of how many epochs. Raises InputError if it stores
        none."""
        protocol = _storing(evaluation)
        card = read_card(folder)
        return forecast(protocol.schedule, card["count"], len(card["classes"])), protocol.schedule.stored

    @checked
    def relabel(self, folder: Path, evaluation: Evaluation, *, out: Path | None = None,
                progress: Progress = Progress()) -> Labels:
        """Store the labels that the students of an evaluation will learn, where ``score`` finds them. Returns them; what is
        there already is read. Raises InputError, RunError."""
        protocol = _storing(evaluation)
        evaluation.prepare(progress)
        distilled = load(folder).to(self.device)
        check_alike(distilled, evaluation.images)
        place, checksum = labels_of(folder, out), distilled.card["files"][TENSORS]
        with self.choosing():
            return protocol.made(place, distilled, evaluation.context(progress), evaluation.network,
                                 RNG(evaluation.seed)("labels"), checksum)

    def _labeler(self, folder: Path, distilled: Distilled, evaluation: Evaluation) -> Labeler | None:
        """What labels random real images as this set's method labels its own."""
        if distilled.card["labels"] != "soft":
            return None
        run_table(folder)  # reports damage
        with suppress(InputError):  # its method cannot be imported: a flag reports what random images lack
            made = read_run(folder)
            return labeler(made, made.task(evaluation.train, root=self.root, data_root=self.data_root))
        return None

    def _train_ahead(self, folder: Path, distilled: Distilled, evaluation: Evaluation, labels: Labeler | None, trials: int,
                     full: bool, out: Path | None, jobs: int, controls: bool, progress: Progress) -> None:
        """Train the missing students in several processes."""
        lacking = missing(folder, distilled, evaluation, baselines=self.baselines, scores=out, trials=trials, full=full,
                          labeler=labels, controls=controls)
        if len(lacking) < 2:
            return
        here = self.load_of(folder, evaluation.data_path)
        if here.train.fingerprint != evaluation.train.fingerprint or \
                images_of(here, evaluation.split).fingerprint != evaluation.images.fingerprint:
            raise InputError("jobs: other processes would load other images than these; use jobs=1")
        work = partial(_student, self, folder, evaluation.protocol, evaluation.network, evaluation.split, evaluation.seed,
                       evaluation.data_path, out)
        names = {f"{subject}, trial {trial + 1}": (subject, trial) for subject, trial in lacking}
        self.executor(jobs).map(work, names, progress)

    @checked
    def plan(self, recipe: Recipe | Run | str, progress: Progress = Progress(),
             first: Callable[[Plan], None] = lambda plan: None) -> Plan:
        """What distilling a recipe, and a student on the result, will take; ``first`` is given a rough estimate early.
        Nothing is written; raises InputError."""
        read = _recipe(recipe)
        return try_out(read.run, self.load(read.run.data).train.to(self.device), read.protocol, read.run.network,
                       root=self.root, data_root=self.data_root, progress=progress, first=first, portable=self.portable)

    @checked
    def tune_speed(self, recipe: Recipe | Run | str, progress: Progress = Progress()) -> dict[str, Timed]:
        """Measure which form of each kind of pass is fastest here for a recipe's network, images and batch, and keep it for
        all later work under this root. Returns what was found by kind of pass. Raises InputError."""
        read = _recipe(recipe)
        check_protocol(read.run, read.protocol)
        make_folder(self.root / SPEED)
        return tune_speed(read.run, self.check(read.run), read.protocol, read.run.network, self.root / SPEED, progress)

    @checked
    def tuning_splits(self, data: Data, networks: Sequence[Architecture], ipc: int) -> Splits:
        """The splits on which kinds of students are tuned, a tenth of the training images held out unless the data has
        validation images. Raises InputError if one of them cannot be tuned."""
        data = describe(Data, data)
        splits = self.load(data)
        if splits.validation is None:
            splits = self.load(data.model_copy(update={"validation": 0.1}))
        assert splits.validation is not None
        splits = splits._replace(train=splits.train.to(self.device), validation=splits.validation.to(self.device))
        for network in load_each(Architecture, networks, "networks"):  # type: ignore[type-abstract]
            check_tuning(network, splits, ipc)
        return splits

    @checked
    def tune(self, protocols: Sequence[Protocol], network: Architecture, data: Data, ipc: int, *, trials: int = 3,
             seed: int = 0, progress: Progress = Progress()) -> list[Tried]:
        """Try protocols on random real images, measured on validation images; the best comes first (see ``tuning.tune``)."""
        protocols = load_each(Protocol, protocols, "protocols")  # type: ignore[type-abstract]
        network = describe(Architecture, network)  # type: ignore[type-abstract]
        with self.choosing():
            return tune(protocols, network, self.tuning_splits(data, [network], ipc), ipc, baselines=self.baselines,
                        trials=trials, seed=seed, progress=progress)

    @checked
    def foresee(self, study: Study, progress: Progress = Progress(),
                first: Callable[[Foreseen], None] = lambda foreseen: None) -> Foreseen:
        """What is missing of a study and how long that takes; ``first`` is given a rough estimate early. Nothing is
        written; raises InputError."""
        return foresee(_study(study), self, progress, first)

    @checked
    def study(self, study: Study, name: str, *, jobs: int = 1, progress: Progress = Progress()) -> dict[str, Any]:
        """Carry out a study, ``jobs`` runs at a time; its results (also returned) and its page are written to
        ``root/studies/NAME``. Raises InputError before any work, RunError."""
        from datastill.report.study import check_folder, write
        study, folder = _study(study), self.study_folder(name)
        check_folder(folder, study.question)
        results = run_study(study, self, folder, executor=self.executor(jobs), progress=progress)
        write(results, folder)
        return results

    @staticmethod
    @checked
    def report(folders: Sequence[Path], out: Path | None = None, *, scores: Path | None = None, force: bool = False) -> Path:
        """One page about finished runs, by default ``report.html``, in the folder of a single run. scores: folder of their
        score sheets, if not beside each set. ``force`` replaces a file that is no such page. Raises InputError."""
        from datastill.report import report
        out = out or (folders[0] / "report.html" if len(folders) == 1 else Path("report.html"))
        return report(folders, out, scores=scores, force=force)


def _student(place: Workspace, folder: Path, protocol: Protocol, network: Architecture, split: Split, seed: int,
             data_path: Path | None, scores: Path | None, which: tuple[str, int], device: torch.device,
             progress: Progress) -> None:
    """Train one student in this process and store its score for the sheet."""
    here = place.on(device)
    (evaluation,) = here.evaluations(folder, [network], protocol, split=split, seed=seed, data_path=data_path)
    distilled = load(folder).to(device)
    with here.choosing():
        train_ahead(*which, folder, distilled, evaluation, baselines=here.baselines, scores=scores,
                    labeler=here._labeler(folder, distilled, evaluation), progress=progress)


def _storing(evaluation: Evaluation) -> SoftLabels:
    """The protocol of an evaluation, if it stores labels. Raises InputError."""
    protocol = evaluation.protocol_for(None)
    if not isinstance(protocol, SoftLabels) or not protocol.relabel.store or protocol.labels == "hard":
        raise InputError(f"protocol {spec(protocol)} stores no labels; give one that does, as in --protocol "
                         "soft_labels:relabel.store=true")
    return protocol


def _study(what: Any) -> Study:
    if not isinstance(what, Study):
        raise InputError(f"expected a Study, as datastill.studies.load_study(name)[0] gives it, got {shown(what)}")
    return what


def _recipe(what: Recipe | Run | str) -> Recipe:
    """A recipe by name, or the unnamed recipe of a run."""
    if isinstance(what, Run):
        return Recipe(name="", run=what)
    if not isinstance(what, (str, Recipe)):
        raise InputError("expected the name of a recipe or a Run, as in Run(method=DM(), data=Data(source='cifar10')), got "
                         f"{shown(what)}")
    return read_recipe(what) if isinstance(what, str) else what
