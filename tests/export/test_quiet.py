"""What C code prints is kept off the terminal, and nothing else is."""

import ctypes
import os
import platform
import sys
import threading

import pytest

from urnet_tf.export.quiet import CapturedLibraryOutput


def c_stderr():
    return ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stderr").value


def print_in_c(text):
    """What libjpeg does: fputs(text, stderr)."""
    library = ctypes.CDLL(None)
    library.fputs(text, ctypes.c_void_p(c_stderr()))
    library.fflush(ctypes.c_void_p(c_stderr()))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere nothing is captured")
def test_only_what_c_prints_is_taken_in_every_thread_and_only_inside(capfd):
    stream = c_stderr()
    with CapturedLibraryOutput() as printed:
        before = printed.size()
        thread = threading.Thread(target=print_in_c, args=(b"Corrupt JPEG data\n",))
        thread.start()
        thread.join()
        print("a log line", file=sys.stderr, flush=True)
        os.write(2, b"a traceback\n")
        assert printed.size() - before == len("Corrupt JPEG data\n")
        with CapturedLibraryOutput() as again:
            print_in_c(b"Bogus Huffman table\n")
        assert again.size() == printed.size() > before + 20
        assert c_stderr() == stream, "a library that met another stream would keep it and close it at exit"
    assert capfd.readouterr().err == "a log line\na traceback\n"
    print_in_c(b"outside\n")
    assert capfd.readouterr().err == "outside\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere nothing is captured")
def test_an_error_inside_gives_the_terminal_back(capfd):
    with pytest.raises(ZeroDivisionError), CapturedLibraryOutput():
        raise ZeroDivisionError
    print_in_c(b"outside\n")
    assert capfd.readouterr().err == "outside\n"
