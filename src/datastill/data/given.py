"""Images passed in from Python."""

from __future__ import annotations

from pathlib import Path

from datastill.data.source import Arrays, Source
from datastill.errors import InputError


class Given(Source):
    """Images passed in from Python (``Images.from_dataset``), which cannot be loaded again.

    label: what they were created from, for the card.
    """

    label: str = ""

    def read(self, place: Path, size: int | None, channels: int | None) -> Arrays:
        of = f" ({self.label})" if self.label else ""
        raise InputError(f"data: these images were passed in from Python{of} and cannot be loaded here; continue in Python, "
                         "for example datastill.score(folder, images, train=images)")
