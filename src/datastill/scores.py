"""How good a distilled set is, from Python: students trained on it beside students trained on random real images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datastill import artifact
from datastill.arguments import checked
from datastill.core import Protocol
from datastill.data import Data, Images
from datastill.data.given import Given
from datastill.data.images import at_hand
from datastill.description import load, load_each
from datastill.errors import InputError
from datastill.nets import Architecture
from datastill.progress import Progress
from datastill.protocols.dc import DC
from datastill.scoring import Evaluation, Split, check_held_out, check_student, images_like
from datastill.statistics import average, statistics
from datastill.workspace import Workspace

if TYPE_CHECKING:
    from datastill.distilled import Distilled


@dataclass(frozen=True)
class Scores:
    """Score sheets of one set by kind of student, as ``datastill evaluate`` writes them; accuracies and gains are fractions.

    ``scores["convnet"]`` is the sheet of one kind: trials of ``synthetic`` and ``random``, ``summary``, ``flags``.
    """

    sheets: Mapping[str, Mapping[str, Any]]

    def __getitem__(self, network: str) -> Mapping[str, Any]:
        return self.sheets[network]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sheets)

    def __len__(self) -> int:
        return len(self.sheets)

    @property
    def accuracy(self) -> dict[str, float]:
        """Mean accuracy of each kind of student trained on the set."""
        return {name: sheet["summary"]["synthetic"]["mean"] for name, sheet in self.sheets.items()}

    @property
    def gain(self) -> float:
        """Mean gain over the same number of random real images per class, under the same protocol; paired by trial."""
        return self._paired()["mean"]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the gain over trials, each the mean over kinds of students; NaN for a single trial."""
        paired = self._paired()
        return paired.get("low", float("nan")), paired.get("high", float("nan"))

    @property
    def flags(self) -> dict[str, list[str]]:
        """Problems with the scores of each kind of student, in words; an empty list if there are none."""
        return {name: list(sheet["flags"]) for name, sheet in self.sheets.items()}

    def _paired(self) -> dict[str, float]:
        gains = [[one["accuracy"] - other["accuracy"]
                  for one, other in zip(sheet["synthetic"], sheet["random"], strict=False)]
                 for sheet in self.sheets.values()]
        return statistics([average(trial) for trial in zip(*gains, strict=False)])


@checked
def score(folder: Path | str | Distilled, images: Any, *, train: Any = None,
          networks: Sequence[Architecture | str] | Architecture | str = (), protocol: Protocol | str | None = None,
          trials: int = 5, split: Split = "test", seed: int = 0, full: bool = False, controls: bool = True,
          root: Path | str = "outputs", data_root: Path | str = "data", progress: Progress = Progress()) -> Scores:
    """Score a distilled set on held-out images: fresh students, last weights, all images, beside random real images.

    folder: of the set, or the set as it was loaded from its folder. images: what students are measured on, ``Images`` or any
    map-style dataset; normalized like the set. train: the training images, for the random baseline; by default those the set
    was distilled from, if they are still in memory in this process or can be loaded from ``data_root``. networks: kinds of
    students, by default the run's. protocol: how they are trained, by default the recipe's or "dc". full: one student on all
    training images too. controls: under a protocol whose students learn from teachers, also score random real images and
    others chosen by the teachers' features, under the same labels and others. Scores are stored in ``folder/scores``; a
    second call runs only what is missing.

    Raises InputError before anything is trained: no distilled set, images of other classes or another shape, the training
    images themselves, other training images.
    """
    folder = Path(folder)  # type: ignore[arg-type]
    card = artifact.read_card(folder)
    real = _training_images(card, train, folder, data_root)
    seen = images_like(images, real)
    how = load(Protocol, card.get("protocol", DC()) if protocol is None else protocol)  # type: ignore[type-abstract]
    kinds = load_each(Architecture, networks, "networks") or [load(Architecture, card["run"]["network"])]  # type: ignore[type-abstract]
    for kind in kinds:
        check_student(kind, seen)
    check_held_out(real, seen)
    workspace = Workspace(root, data_root, seen.device)
    found = {}
    for number, kind in enumerate(kinds):
        evaluation = Evaluation(workspace.protocol_of(folder, how), kind, real, seen, split, seed, root=workspace.root,
                                data_root=workspace.data_root)
        sheet = workspace.score(folder, evaluation, trials=trials, full=full, controls=controls,
                                progress=progress.part(number, len(kinds)))
        found[sheet["network"]] = sheet
    return Scores(found)


def _training_images(card: Mapping[str, Any], train: Any, folder: Path, data_root: Path | str) -> Images:
    """The images a set was distilled from. Raises InputError."""
    wanted = card["data"]["fingerprint"]
    found = at_hand(wanted) if train is None else Images.from_dataset(train)
    data = load(Data, card["run"]["data"])
    if found is None and isinstance(data.source, Given):
        raise InputError(f"{folder} was distilled from images passed in from Python ({card['data']['name']}); pass them "
                         "here too, as in train=images, for the random real images it is compared with")
    found = found or data.load(data_root).train
    if found.fingerprint != wanted:
        raise InputError(f"these are not the training images {folder} was distilled from (fingerprint {found.fingerprint}, "
                         f"expected {wanted})")
    return found
