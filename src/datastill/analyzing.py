"""What can be asked of teachers, data and finished runs beyond students' accuracy, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datastill.analysis.difficulty import Difficulty, of_data, of_run
from datastill.analysis.erasing import Erased, check_erasing, erasing
from datastill.analysis.judging import Judged, check_judges, judge
from datastill.analysis.meta_features import MetaFeatures, check_networks
from datastill.analysis.meta_features import of_run as of_networks
from datastill.analysis.public import read_public
from datastill.arguments import checked
from datastill.artifact import CARD, sound_snapshots
from datastill.digest import spec
from datastill.errors import InputError
from datastill.files import make_folder
from datastill.place import Place
from datastill.progress import Progress
from datastill.recipes import read_pools
from datastill.registry import names
from datastill.run import Run, read_run
from datastill.tables import nearest
from datastill.task import Task
from datastill.teachers import Context, Pool, Teachers

ONE_EACH = ("pool.count=1",)  # one network of each architecture
JUDGES = ("pool.count=1", "pool.seed=1000")  # teachers that no run uses by default


class Analyzing(Place):
    """A place whose networks look at sets and data: they are trained if they are missing, and kept for all later work."""

    @checked
    def difficulty(self, what: Path | str, settings: Sequence[str] = (), pool: str = "early", *, count: int = 1000,
                   scores: Path | None = None, data_path: Path | str | None = None,
                   progress: Progress = Progress()) -> Difficulty:
        """How hard images are: of a finished run (its folder, a Path), or of a dataset by name, under the networks
        of a pool, which are trained if they are missing; settings: ``pool.count=3``, ``data.size=32``.

        count: real images, drawn at random; 0 for all. scores: a file of somebody else's, to compare with (see
        ``analysis.public.read_public``). Raises InputError, RunError.
        """
        if pool.partition(":")[0] not in names(Pool) and ":" not in pool and not pool.endswith(".toml"):
            raise InputError(f"unknown pool {pool!r}{nearest(pool, names(Pool))}")
        if isinstance(what, Path):
            if not (what / CARD).exists():
                raise InputError(f"{what} is not the folder of a finished run; for images of your own: folder "
                                 f"data.path={what}")
            run, task = self._judged(what, settings, data_path)
            named = any(one.startswith("pool.networks") for one in settings)
            own = [] if named else [f'pool.networks=["{spec(run.network)}"]']
            return of_run(what, run, task, self._tellers(read_pools(pool, [*own, *settings])[0][0], task.context, progress),
                          count=count, progress=progress)
        (networks,), data, _ = read_pools(pool, [f"data.source={what}", *settings])
        context = self.context(data)
        if scores is not None:
            read_public(scores, context.real)  # a wrong file is named before anything is trained
        return of_data(context.real, self._tellers(networks, context, progress), count=count, public=scores,
                       progress=progress)

    @checked
    def meta_features(self, folder: Path, settings: Sequence[str] = (), pool: str = "supervised", *, count: int = 200,
                      data_path: Path | str | None = None, progress: Progress = Progress()) -> MetaFeatures:
        """What networks of a pool see alike in a finished run's set, by activation maps; they are trained if they are
        missing. settings: ``pool.networks=convnet,vit``. count: real images to compare with, at random; 0 for all. Raises
        InputError, RunError."""
        if not (folder / CARD).exists():
            raise InputError(f"{folder} is not the folder of a finished run")
        sound_snapshots(folder)
        run, task = self._judged(folder, settings, data_path)
        some = read_pools(pool, settings, ONE_EACH)[0][0]
        check_networks(some, task.context)
        teachers = self._trained(some, task.context, progress.part(0, 2, "networks"))
        return of_networks(folder, run, task, teachers, count=count, progress=progress.part(1, 2, "maps"))

    @checked
    def judge(self, folders: Sequence[Path], settings: Sequence[str] = (), pool: str | None = None, *,
              data_path: Path | str | None = None, progress: Progress = Progress()) -> list[list[Judged]]:
        """How well the networks of a pool recognize the sets of finished runs, at every snapshot; they are trained if they
        are missing. pool: by default one of kind supervised with a seed that no run uses (1000). settings:
        ``pool.count=2``. Raises InputError, RunError."""
        judges = read_pools(pool or "supervised", settings, () if pool else JUDGES)[0][0]
        for folder in folders:  # all before any are trained, and one after the other: data on a device are copies
            _, task = self._judged(folder, settings, data_path)
            sound_snapshots(folder)
            check_judges(judges, task.context)
        judged = []
        for number, folder in enumerate(folders):
            run, task = self._judged(folder, settings, data_path)
            training, judging = (progress.part(2 * number + half, 2 * len(folders), what)
                                 for half, what in enumerate(("networks", folder.name)))
            judged.append(judge(folder, run, self._trained(judges, task.context, training), judging))
        return judged

    @checked
    def erasing(self, what: str, settings: Sequence[str] = (), pool: str = "supervised", *, count: int = 5000,
                threshold: float = 0.5, epochs: int = 20, trials: int = 3, progress: Progress = Progress()) -> list[Erased]:
        """What architectures of a pool learn from a dataset, by name, if what its networks see is erased; see
        ``analysis.erasing``. Students are kept in ``erasing`` of the root. settings: ``pool.networks=convnet,vit``,
        ``data.size=32``. Raises InputError, RunError."""
        (networks,), data, _ = read_pools(pool, [f"data.source={what}", *settings], ONE_EACH)
        context, test = self.context(data), self.load(data).test
        if test is None:
            raise InputError(f"{what} has no test images to measure students on; set data.test")
        check_networks(networks, context)
        check_erasing(networks, context.real, count=count, threshold=threshold, epochs=epochs, trials=trials)
        return erasing(self._trained(networks, context, progress.part(0, 2, "networks")), context.real,
                       test.to(self.device), count=count, threshold=threshold, epochs=epochs, trials=trials, root=self.root,
                       progress=progress.part(1, 2, "students"))

    def _judged(self, folder: Path, settings: Sequence[str], data_path: Path | str | None) -> tuple[Run, Task]:
        """The run of a folder and its task, to look at with a pool of these settings. Raises InputError."""
        if wrong := [one for one in settings if "pool" not in one.partition("=")[0].strip().split(".")]:
            raise InputError(f"{wrong[0]}: expected a setting of the pool, as in pool.count=2; the data are those of the "
                             "set")
        run, real = read_run(folder), self.load_of(folder, data_path).train.to(self.device)
        return run, run.task(real, root=self.root, data_root=self.data_root)

    def _tellers(self, pool: Pool, context: Context, progress: Progress) -> Teachers:
        """The networks that tell how hard images are, trained if they are missing."""
        pool.check(context, {"logits"})
        make_folder(self.root / "difficulty")
        return self._trained(pool, context, progress)

    def _trained(self, pool: Pool, context: Context, progress: Progress) -> Teachers:
        """The networks of a pool, trained if they are missing."""
        with self.choosing():
            pool.prepare(replace(context, progress=progress))
        return Teachers(pool, context)
