"""The two ways things end early: bad input (exit code 2) and a run that cannot go on (exit code 1)."""


class InputError(Exception):
    """Bad input. The text is one line: what came, what was expected, what to do."""


class RunError(Exception):
    """A run stopped on its way; what was reached is kept. The text says where it stopped and what to try."""
