"""The ways things end early: bad input (exit code 2), a run that cannot go on (exit code 1), one that was asked to stop."""


class InputError(Exception):
    """Bad input. The text is one line: what came, what was expected, what to do."""


class RunError(Exception):
    """A run stopped on its way; what was reached is kept. The text says where it stopped and what to try."""


class Stopped(RunError):
    """A run stopped because it was asked to, in a state from which it goes on. ``code``: exit code of the command line."""

    def __init__(self, text: str = "stopped; the same command goes on", code: int = 130) -> None:
        super().__init__(text)
        self.code = code
