"""Exceptions that the command line prints in one line, without a traceback."""


class UserError(ValueError):
    """A value the user gave breaks a rule; exit code 2. The message is one line: the value, the
    rule, the way out."""


class OutsideError(RuntimeError):
    """Something outside failed, a server or a disk, which is nobody's mistake here; exit code 1.
    The message is one line: what failed, what is kept, what to do."""
