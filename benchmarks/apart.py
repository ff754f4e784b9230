"""A measurement in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def apart(script: str, *arguments: object) -> dict[str, Any]:
    """The table that a script prints as its last line, JSON. Exits with what it said if it fails."""
    done = subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
