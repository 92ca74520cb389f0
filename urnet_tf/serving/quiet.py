"""Keeps what native libraries print off the terminal."""

import contextlib
import os
import tempfile


@contextlib.contextmanager
def quiet_stderr():
    """Drops what is written to standard error, by C++ code too, while the block runs.

    TensorFlow's converters and interpreters print several lines on each call, whatever the level of
    logging. What goes wrong comes as an exception with the message in it.
    """
    with tempfile.TemporaryFile() as unread:
        terminal = os.dup(2)
        os.dup2(unread.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
