"""Keeps what native libraries print off the terminal."""

import contextlib
import ctypes
import functools
import os
import platform
import tempfile

_NO_BUFFER = 2  # _IONBF of glibc


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


class CapturedLibraryOutput:
    """Takes what C code prints by `stderr` to a file of its own while the block runs.

    libjpeg prints a line for many a damaged image, also where decoding then succeeds. Python writes to
    the descriptor and not by C's `stderr`, so logs, progress and tracebacks are left alone, in all threads.
    Where the C library is not glibc nothing is captured.
    """

    def __enter__(self):
        self._file, stream = _captured()
        self._variable = _c_stderr()
        if self._variable is not None:
            self._before = self._variable.value
            self._variable.value = stream
        return self

    def __exit__(self, *_):
        if self._variable is not None:
            self._variable.value = self._before

    def size(self) -> int:
        """Bytes printed so far, in this block and earlier ones."""
        return os.fstat(self._file.fileno()).st_size


@functools.cache
def _captured():
    """A file and a C stream that writes to it; for good, since a thread may hold the stream for long."""
    file = tempfile.TemporaryFile()
    return file, _unbuffered_stream(os.dup(file.fileno()))


def _c_stderr():
    """C's variable `stderr`, where it may be set."""
    if platform.libc_ver()[0] != "glibc":  # elsewhere it may be constant
        return None
    return ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stderr")


def _unbuffered_stream(descriptor):
    library = ctypes.CDLL(None)
    library.fdopen.restype = ctypes.c_void_p
    library.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    stream = library.fdopen(descriptor, b"w")
    library.setvbuf(stream, None, _NO_BUFFER, 0)
    return stream
