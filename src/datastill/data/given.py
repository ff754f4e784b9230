"""Images that were handed over in Python."""

from __future__ import annotations

from pathlib import Path

from datastill.data.source import Arrays, Source
from datastill.errors import InputError


class Given(Source):
    """Images that were handed over in Python (``Images.from_dataset``), which nothing can load again.

    label: what they were made of, for the card.
    """

    label: str = ""

    def read(self, place: Path, size: int | None, channels: int | None) -> Arrays:
        of = f" ({self.label})" if self.label else ""
        raise InputError(f"data: these images were handed over in Python{of} and cannot be loaded here; go on in Python, as in "
                         "datastill.score(folder, images, train=images)")
