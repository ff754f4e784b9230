"""How far a long piece of work is, what there is to be wary of, and the one way to stop it."""

from __future__ import annotations

import logging

log = logging.getLogger("datastill")


class Progress:
    """What work tells of itself while it goes on. This one shows nothing, never stops, and logs warnings; derive from it to
    show more, or to stop: whoever works catches ``Stopped`` from ``tell``, saves its state, and raises it again."""

    def tell(self, done: int, of: int, note: str = "") -> None:
        """``done`` of ``of`` steps are done; ``note`` says of what, or how it goes. May raise ``Stopped``."""

    def warn(self, text: str) -> None:
        """Something to be wary of; the work goes on."""
        log.warning(text)

    def part(self, number: int, of: int, note: str = "") -> Progress:
        """For piece ``number`` (from 0) of ``of`` of equal length: what it tells is told of the whole, after ``note``."""
        return _Part(self, number, of, note)


class _Part(Progress):
    def __init__(self, whole: Progress, number: int, of: int, note: str) -> None:
        self.whole, self.number, self.of, self.note = whole, number, of, note

    def tell(self, done: int, of: int, note: str = "") -> None:
        self.whole.tell(self.number * of + done, self.of * of, ", ".join(filter(None, (self.note, note))))

    def warn(self, text: str) -> None:
        self.whole.warn(text)
