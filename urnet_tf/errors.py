"""The two errors that end a run with one clear sentence instead of a traceback.

Their messages quote what users and files say, so that what steers a terminal is shown escaped in them.
"""

import unicodedata

_STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control characters, directions of writing, separators of lines
_KEPT = "\n\u200d"  # tables and lists of reasons; the joiner inside of an emoji


class UsageError(ValueError):
    """The caller asked for something impossible: exit status 2.

    The message says what was expected, what was received and what to do.
    """

    def __init__(self, message: str = ""):
        super().__init__(_escaped(message))


class RunError(RuntimeError):
    """The run cannot go on although the request was sound (a NaN loss, say): exit status 1."""

    def __init__(self, message: str = ""):
        super().__init__(_escaped(message))


def _escaped(message: object) -> str:
    text = str(message)
    if text.isprintable():
        return text
    return "".join(
        sign if sign in _KEPT or unicodedata.category(sign) not in _STEERING else repr(sign)[1:-1]
        for sign in text
    )
