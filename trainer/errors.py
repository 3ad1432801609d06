"""The exceptions that are shown to the user as a line of text instead of a traceback."""


class UserError(Exception):
    """Input that cannot be used: the message names the values and the way out. The door exits with code 2."""


class SharedError(UserError):
    """What all ranks raise together, after one of them met it: only rank 0 says it."""


class LocalError(UserError):
    """What only this process has met, such as a damaged image among its own: it says so, whatever its rank."""


class UnreachableError(LocalError):
    """Processes that do not find one another: starting again may help. The door exits with code 75."""


def one_line(text: str) -> str:
    """What a file or a person wrote may hold line ends and codes that drive a terminal: they are shown, not sent."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def first_line(error: BaseException) -> str:
    """What an exception says, short enough for a line."""
    return (str(error) or type(error).__name__).splitlines()[0]
