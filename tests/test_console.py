"""Signals end the program with one sentence and the status that shells expect, wherever they come."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

# Where the exception of the signal is let through, and where Python or a library drops it.
PLACES = {
    "plain": "time.sleep(30)",
    "weakref": """
        class Referent: pass
        referent = Referent()
        reference = weakref.ref(referent, lambda _: time.sleep(30))
        del referent
        """,
    "finalizer": """
        class Sleeps:
            def __del__(self): time.sleep(30)
        Sleeps()
        """,
    "echo": """
        try:
            time.sleep(30)
        except KeyboardInterrupt:
            raise RuntimeError("a library was interrupted")
        """,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_program_wherever_it_comes(place, number):
    body = textwrap.dedent(PLACES[place])
    program = (
        "import sys, time, weakref\n"
        "from urnet_tf import __main__, console\n"
        "def dispatch(command, arguments):\n"
        "    console.promise('more can be done')\n"
        "    print('ready', flush=True)\n"
        f"{textwrap.indent(body, '    ')}\n"
        "    time.sleep(30)\n"
        "__main__._dispatch = dispatch\n"
        "sys.argv = ['urnet', 'run']\n"
        "console.start()\n"
    )
    status, said = end_by_signal(program, number)
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert said == f"urnet: stopped by {name}; more can be done.\n"
    assert status == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_work_is_too_late(number):
    program = (
        "import atexit, sys, time\n"
        "from urnet_tf import __main__, console\n"
        "atexit.register(lambda: (print('ready', flush=True), time.sleep(0.3)))\n"
        "__main__._dispatch = lambda command, arguments: 0\n"
        "sys.argv = ['urnet', 'run']\n"
        "console.start()\n"
    )
    assert end_by_signal(program, number) == (0, "")


def end_by_signal(program, number):
    """Sends a signal when the program says that it is ready; its exit status, and its standard error."""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=10)
    return process.returncode, said


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["run", "--dry_run", "--data", "crawl"]])
def test_a_reader_that_has_seen_enough_is_no_error(arguments, unbuffered, tmp_path):
    for name in ("red/1.jpg", "blue/1.jpg"):
        (tmp_path / "crawl" / name).parent.mkdir(parents=True)
        (tmp_path / "crawl" / name).touch()
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "urnet_tf", *arguments], stdout=closed, stderr=subprocess.PIPE, text=True,
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.getcwd(), "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
