"""Keeps what native libraries print off the terminal."""

import contextlib
import ctypes
import functools
import os
import platform
import tempfile
from collections.abc import Iterator
from typing import IO, Any

_FILENO_OFFSET = 112  # of _fileno in glibc's struct _IO_FILE, on all 64-bit machines; part of its ABI


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
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

    def __enter__(self) -> "CapturedLibraryOutput":
        self._file, self._descriptor = _captured_file(), _c_stderr_descriptor()
        if self._descriptor is not None:
            self._before, self._descriptor.value = self._descriptor.value, self._file.fileno()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._descriptor is not None:
            self._descriptor.value = self._before

    def size(self) -> int:
        """Bytes printed so far, in this block and earlier ones."""
        return os.fstat(self._file.fileno()).st_size


@functools.cache
def _captured_file() -> IO[bytes]:
    """For good: a thread of a library may print after the block."""
    return tempfile.TemporaryFile()


def _c_stderr_descriptor() -> Any:
    """The field of C's `stderr` with its file descriptor; None where it is not where it is expected.

    The stream itself stays: libraries that met another one would keep it, and close it at exit.
    """
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    library.fileno.argtypes = [ctypes.c_void_p]
    stream = ctypes.c_void_p.in_dll(library, "stderr").value
    if stream is None:
        return None
    field = ctypes.c_int.from_address(stream + _FILENO_OFFSET)
    return field if field.value == library.fileno(stream) else None
