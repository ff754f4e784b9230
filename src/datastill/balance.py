"""How plug-ins are weighted relative to their gradients: a running geometric mean of measured ratios, with a bound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from datastill.core import Plugin

EVERY = 20  # iterations between measurements, once there are WINDOW
WINDOW = 10  # measurements that count: the first as their mean, later ones with a weight of 1 / WINDOW each
BOUND = 10.0  # the ratio stays within this factor of that of the first WINDOW measurements


class Balance:
    """Ratios of a method's gradient norm to those of its plug-ins' terms, of those with ``balance`` other than "fixed".

    One measurement is the geometric mean over the steps of an iteration. Norms are spread over orders of magnitude, from one
    drawn teacher to the next and along a run, which is why the mean is geometric. A term that is nearly satisfied has a
    small gradient; the bound keeps it from being amplified without limit. All of this is ours.
    """

    def __init__(self, plugins: Mapping[str, Plugin]) -> None:
        self.modes = {name: plugin.balance for name, plugin in plugins.items()
                      if plugin.balance != "fixed" and plugin.weight > 0}
        self._drawn: dict[str, list[float]] = {name: [] for name in self.modes}  # logarithms in this iteration
        self._kept: dict[str, tuple[int, float, float]] = {}  # measurements, logarithm of their mean, that of the first ones

    def due(self, iteration: int) -> bool:
        """Whether gradient norms are to be measured in this iteration for the sake of a ratio."""
        return any(name not in self._kept or self._kept[name][0] < WINDOW or (mode == "gradient" and iteration % EVERY == 0)
                   for name, mode in self.modes.items())

    def measured(self, norms: Mapping[str, float]) -> None:
        """Take in the gradient norms of a step by term; "method" is the method's own. A norm of 0 tells nothing."""
        for name, drawn in self._drawn.items():
            if norms.get(name, 0.0) > 0 and norms["method"] > 0:
                drawn.append(math.log(norms["method"] / norms[name]))

    def close(self) -> None:
        """At the end of an iteration, make one measurement of its steps."""
        for name, drawn in self._drawn.items():
            count, mean, start = self._kept.get(name, (0, 0.0, 0.0))
            if drawn and (count < WINDOW or self.modes[name] == "gradient"):
                count += 1
                mean += (math.fsum(drawn) / len(drawn) - mean) / min(count, WINDOW)
                self._kept[name] = (count, mean, mean if count <= WINDOW else start)
            drawn.clear()

    def ratio(self, name: str) -> float:
        """What the weight of this plug-in is multiplied by: 1 if it is fixed, 0 as long as nothing was measured."""
        if name not in self.modes:
            return 1.0
        if name not in self._kept:
            drawn = self._drawn[name]
            return math.exp(math.fsum(drawn) / len(drawn)) if drawn else 0.0
        _, mean, start = self._kept[name]
        return math.exp(min(max(mean, start - math.log(BOUND)), start + math.log(BOUND)))

    def state(self) -> dict[str, list[float]]:
        """What changes, between two iterations, as plain values."""
        return {name: list(kept) for name, kept in self._kept.items()}

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        """Continue from a state."""
        self._kept = {name: (int(count), mean, start) for name, (count, mean, start) in state.items()}
