"""The one exception that means "the user can fix this": the command line prints it in one line and
exits with 2."""


class UserError(ValueError):
    """A value the user gave breaks a rule. The message is one line: the value, the rule, the way
    out."""
