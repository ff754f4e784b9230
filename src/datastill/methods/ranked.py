"""Real images chosen by how hard they are, without any optimization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from datastill.core import Method, Step
from datastill.data import Images
from datastill.errors import InputError
from datastill.functional.coresets import stratified, window
from datastill.late import torch
from datastill.rng import RNG
from datastill.task import Task, filled
from datastill.teachers import Pool
from datastill.teachers._difficulty import Score, check_scores, of_real
from datastill.teachers.early import Early

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.synthetic import SyntheticSet


class Ranked(Method):
    """``ipc`` real images of each class by their difficulty, as a baseline or as the start of another run (``start_from``).

    choose: "easiest" or "hardest": those with the lowest or highest scores. "window": those that follow each other in the
        order of their scores, from the share ``window`` of the way from the easiest (0) to the hardest (1). "ccs": evenly
        from all ranges of scores but the hardest (Zheng et al. 2023; there over all classes at once, here in each).
    score: "gradn": norm of the gradient of an image's loss (GraNd); "el2n": error of the prediction; "misclassified": share
        of networks that are wrong; "forgetting": how often a network was right after one epoch and wrong after the next.
        "gradn" takes about five times as long as "el2n".
    pool: the networks that tell it, those of the run by default; "early" are ten of them after five epochs.
    cutoff, strata: of "ccs": the share of the hardest images that is left out, and into how many ranges the scores of the
        others are cut (0.3 and 50: theirs for CIFAR-10 with a tenth of the images kept).
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        name: {"choose": name} for name in ("easiest", "hardest", "window", "ccs")}

    choose: Literal["easiest", "hardest", "window", "ccs"] = "easiest"
    score: Score = "el2n"
    pool: Pool = Early(networks=())
    window: float = Field(default=0.5, ge=0.0, le=1.0)
    cutoff: float = Field(default=0.3, ge=0.0, lt=1.0)
    strata: int = Field(default=50, ge=1, le=10_000)
    iterations: int = Field(default=0, ge=0, le=0)

    @model_validator(mode="after")
    def _can_be_told(self) -> Self:
        try:
            check_scores(self.pool, [self.score])
        except InputError as error:
            raise ValueError(str(error)) from None
        return self

    def check(self, task: Task, ipc: int) -> None:
        self.pool.for_network(task.network).check(task.context, {"class_logits"})

    def prepare(self, task: Task) -> Mapping[str, Any]:
        pool = self.pool.for_network(task.network)
        pool.prepare(task.context)
        return {"teachers": pool.facts(task.context)}

    def start(self, task: Task, ipc: int, rng: RNG) -> SyntheticSet:
        scores = torch.from_numpy(of_real(task.teachers(self.pool), task.real, self.score, task.progress))
        rows = [filled(pool[self._pick(scores[pool.cpu()], min(ipc, len(pool)), rng("pick", c))], ipc)
                for c, pool in enumerate(task.real.of_class)]
        return task.synthetic(task.real.batch(torch.cat(rows)), rng=rng("encode"))

    def _pick(self, scores: Tensor, count: int, rng: RNG) -> Tensor:
        if self.choose == "ccs":
            return stratified(scores, count, rng, self.cutoff, self.strata)
        return window(scores, count, {"easiest": 0.0, "hardest": 1.0}.get(self.choose, self.window))

    def iterate(self, iteration: int, synthetic: SyntheticSet, task: Task, rng: RNG) -> Iterator[Step]:
        yield from ()

    def rehearsal(self, task: Task, ipc: int) -> tuple[Method, Images, float]:
        some = task.part(0, max(1, min(map(len, task.real.of_class)) // max(ipc, 100))).real
        return self, some, len(task.real) / len(some)
