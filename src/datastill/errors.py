"""Why work ends early: bad input (exit code 2), a run that cannot continue (exit code 1), one that was asked to stop."""


def one_line(text: str) -> str:
    """The text on one line; names of files and classes may have line breaks."""
    return "\\n".join(text.splitlines())


class _Told(Exception):
    """Ends work with one line for the user."""

    def __init__(self, text: str = "") -> None:
        super().__init__(one_line(text))


class InputError(_Told):
    """Bad input. The text is one line: what was given, what was expected, what to do."""


class RunError(_Told):
    """A run failed; what it finished is kept. The text says where it stopped and what to try."""


class Stopped(RunError):
    """A run stopped because it was asked to, and can be continued. ``code``: exit code of the command line."""

    def __init__(self, text: str = "stopped; run the same command to continue", code: int = 130) -> None:
        super().__init__(text)
        self.code = code
