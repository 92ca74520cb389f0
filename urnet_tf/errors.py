"""The two errors that end a run with one clear sentence instead of a traceback.

Arguments that a message advises to change stand in backticks, by the names that a caller from Python knows:
"Try a lower `learning_rate`." What calls with values of the configuration puts the keys there instead, by
`settings_named`.

Their messages quote what users and files say, so that what steers a terminal is shown escaped in them.
"""

import contextlib
import re
import unicodedata
from collections.abc import Iterator, Mapping

_STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control characters, directions of writing, separators of lines
_KEPT = "\n\u200d"  # tables and lists of reasons; the joiner inside of an emoji


class UsageError(ValueError):
    """The caller asked for something impossible: exit status 2.

    The message says what was expected, what was received and what to do.
    """

    def __init__(self, message: str = ""):
        super().__init__(escape_steering(message))


class RunError(RuntimeError):
    """The run cannot go on although the request was sound (a NaN loss, say): exit status 1."""

    def __init__(self, message: str = ""):
        super().__init__(escape_steering(message))


@contextlib.contextmanager
def settings_named(keys: Mapping[str, str]) -> Iterator[None]:
    """Errors from inside name arguments by other names, and without the backticks.

    Args:
      keys: argument → its key in the configuration, "learning_rate" → "train.fit.learning_rate".
    """
    try:
        yield
    except (UsageError, RunError) as error:
        error.args = (name_settings(str(error), keys),)
        raise


def name_settings(text: str, keys: Mapping[str, str]) -> str:
    """A sentence for the log as `settings_named` does with messages of errors."""
    names = "|".join(map(re.escape, keys))
    return re.sub(rf"`({names})(=[^`]*)?`", lambda found: keys[found[1]] + (found[2] or ""), text)


def escape_steering(text: str, kept: str = _KEPT) -> str:
    """A text whose signs that steer a terminal or turn the writing stand as in `repr`, but for those kept."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        sign if sign in kept or unicodedata.category(sign) not in _STEERING else repr(sign)[1:-1]
        for sign in text
    )
