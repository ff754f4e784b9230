"""How images are computed from the learned parameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from typing import Protocol as Interface

from datastill.data import Batch
from datastill.description import Family
from datastill.rng import RNG

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.task import Task


PARAMETRIZATION = "parametrization"  # what cards say about it goes by this name


class Codec(Interface):
    """What turns parameters into images in a run, and how many there are."""

    def decode(self, parameters: Mapping[str, Tensor], rows: Tensor | None = None) -> Tensor:
        """As ``Parametrization.decode``."""
        ...

    def labels(self, stored: Tensor) -> Tensor:
        """As ``Parametrization.labels``."""
        ...

    def project(self, parameters: Mapping[str, Tensor]) -> None:
        """As ``Parametrization.project``."""
        ...


class Parametrization(Family):
    """How images are computed from the learned parameters. A new one is a file in ``datastill/parametrizations``.

    A set *stores* ``ipc`` images per class, in class order, and their labels; students see what these *decode* to: N images
    of the data's shape, also in class order, the same number per class. N may differ from the number stored.
    """

    home: ClassVar[str] = "datastill.parametrizations"
    in_pixels: ClassVar[bool] = False  # whether parameters are normalized pixels, however arranged: some methods clamp them

    @property
    def starts(self) -> int:
        """How many images each stored one starts from."""
        return 1

    def check(self, task: Task, ipc: int) -> None:
        """Check that it fits the task and ``ipc`` stored images per class, before any work. Raises InputError."""

    def prepare(self, task: Task) -> Mapping[str, Any]:
        """Prepare what is needed before the first iteration. Returns what the card records about it."""
        return {}

    def seconds(self, task: Task) -> float:
        """Estimated seconds of ``prepare``, for ``datastill plan``; nothing is written."""
        return 0.0

    def identity(self) -> tuple[str, ...]:
        """What determines its images besides the description: the content of files."""
        return ()

    def origin(self, task: Task) -> str:
        """What else decodes the parameters, such as a generator and its content; "" if nothing does. The card records it as
        ``prepared.parametrization.generator``. A run continues from sets of the same origin only."""
        return ""

    def bound(self, task: Task) -> Codec:
        """What decodes in a run on this task: itself, unless it needs more than the parameters (a generator)."""
        return self

    @abstractmethod
    def encode(self, start: Batch, task: Task, rng: RNG) -> dict[str, Tensor]:
        """Initial parameters, by name.

        start: ``starts`` normalized images for each stored one, one after the other, (S * starts, C, H, W), and their labels
        (S * starts, K), probabilities or logits.
        """

    @abstractmethod
    def decode(self, parameters: Mapping[str, Tensor], rows: Tensor | None = None) -> Tensor:
        """Normalized images (N, C, H, W), differentiable in the parameters; only those at ``rows`` if given."""

    def project(self, parameters: Mapping[str, Tensor]) -> None:
        """Bring parameters back to where they may be, in place; after the start and after every update."""

    def labels(self, stored: Tensor) -> Tensor:
        """Labels of the decoded images (N, K) from those of the stored ones (S, K)."""
        return stored
