"""Environment variables that switch something: what may be set."""

from __future__ import annotations

import os

from datastill.errors import InputError


def environment(name: str, known: str) -> str:
    """The value of a variable, or "" if it is not set; only one is ``known``. Raises InputError for any other."""
    value = os.environ.get(name, "")
    if value not in ("", known):
        raise InputError(f"the environment variable {name} is {value!r}; expected {known!r}, or not to be set")
    return value
