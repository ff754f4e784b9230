"""Progress and warnings of long work, and the way to stop it."""

from __future__ import annotations

import logging
import signal

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # requests to stop
log = logging.getLogger("datastill")
of_data = logging.getLogger("datastill.data")  # what is said whenever a dataset is loaded


class Progress:
    """Receives progress and warnings from running work. This one shows nothing, never stops, and logs warnings; subclass it
    to show more, or to stop: the worker catches ``Stopped`` from ``tell`` or ``check``, saves its state, and raises it
    again."""

    def tell(self, done: int, of: int, note: str = "") -> None:
        """``done`` of ``of`` steps are done; ``note`` says of what, or how well. May raise ``Stopped``."""

    def warn(self, text: str) -> None:
        """Show a warning; the work continues."""
        log.warning(text)

    def check(self) -> None:
        """Show nothing. May raise ``Stopped``: work whose steps are not shown asks here as often as it would ``tell``."""

    def part(self, number: int, of: int, note: str = "") -> Progress:
        """For piece ``number`` (from 0) of ``of`` equal ones: reports its progress as that of the whole, with ``note``."""
        return _Part(self, number, of, note)

    def unshown(self) -> Progress:
        """For a piece whose steps are not shown, but which can be stopped in the middle."""
        return _Unshown(self)


class _Part(Progress):
    def __init__(self, whole: Progress, number: int, of: int, note: str) -> None:
        self.whole, self.number, self.of, self.note = whole, number, of, note

    def tell(self, done: int, of: int, note: str = "") -> None:
        self.whole.tell(self.number * of + done, self.of * of, ", ".join(filter(None, (self.note, note))))

    def check(self) -> None:
        self.whole.check()

    def warn(self, text: str) -> None:
        self.whole.warn(text)


class _Unshown(Progress):
    def __init__(self, whole: Progress) -> None:
        self.whole = whole

    def tell(self, done: int, of: int, note: str = "") -> None:
        self.whole.check()

    def check(self) -> None:
        self.whole.check()

    def warn(self, text: str) -> None:
        self.whole.warn(text)
