"""How to install what only some parts need."""

from __future__ import annotations


def install(extra: str) -> str:
    """The command, for messages and with quotes for every shell. datastill is installed from its folder, not from an
    index, where another package may have its name.

    >>> install("timm")
    "pip install -e '.[timm]' in the folder of datastill"
    """
    return f"pip install -e '.[{extra}]' in the folder of datastill"
