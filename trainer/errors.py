"""The exceptions that are shown to the user as a line of text instead of a traceback."""


class UserError(Exception):
    """Input that cannot be used: the message names the values and the way out. The door exits with code 2."""


class LocalError(UserError):
    """What only this process has met, such as a damaged image among its own: it says so, whatever its rank."""
