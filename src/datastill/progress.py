"""Progress and warnings of long work, and the way to stop it."""

from __future__ import annotations

import logging

log = logging.getLogger("datastill")
of_data = logging.getLogger("datastill.data")  # what is said whenever a dataset is loaded


class Progress:
    """Receives progress and warnings from running work. This one shows nothing, never stops, and logs warnings; subclass it
    to show more, or to stop: the worker catches ``Stopped`` from ``tell``, saves its state, and raises it again."""

    def tell(self, done: int, of: int, note: str = "") -> None:
        """``done`` of ``of`` steps are done; ``note`` says of what, or how well. May raise ``Stopped``."""

    def warn(self, text: str) -> None:
        """Show a warning; the work continues."""
        log.warning(text)

    def part(self, number: int, of: int, note: str = "") -> Progress:
        """For piece ``number`` (from 0) of ``of`` equal ones: reports its progress as that of the whole, with ``note``."""
        return _Part(self, number, of, note)


class _Part(Progress):
    def __init__(self, whole: Progress, number: int, of: int, note: str) -> None:
        self.whole, self.number, self.of, self.note = whole, number, of, note

    def tell(self, done: int, of: int, note: str = "") -> None:
        self.whole.tell(self.number * of + done, self.of * of, ", ".join(filter(None, (self.note, note))))

    def warn(self, text: str) -> None:
        self.whole.warn(text)
