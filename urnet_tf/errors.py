"""The two errors that end a run with one clear sentence instead of a traceback."""


class UsageError(ValueError):
    """The caller asked for something impossible: exit status 2.

    The message says what was expected, what was received and what to do.
    """


class RunError(RuntimeError):
    """The run cannot go on although the request was sound (a NaN loss, say): exit status 1."""
