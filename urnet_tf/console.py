"""Where the program starts: it takes signals over before anything else is imported, and ends with a status.

0    done, or nothing to do
1    failed; also when the environment does: a full disk, a file that cannot be read
2    bad usage
130  stopped by Ctrl-C (SIGINT)
141  whoever read the output, like `| head`, has closed it
143  stopped by SIGTERM
"""

import os
import select
import signal
import sys
import threading
import types

_PATIENCE_S = 20.0  # for native code that does not let Python's exceptions through

_received: int | None = None
_aftermath = ""


def start() -> None:
    """Runs the command line of this process and exits; never returns."""
    _take_signals()
    try:
        from urnet_tf.__main__ import console

        try:
            console()
        finally:
            _ignore_signals()
            sys.stdout.flush()
    except KeyboardInterrupt:
        _end()
    except BrokenPipeError:
        if not output_was_closed():
            raise
        # What is left in the buffer must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def was_stopped() -> bool:
    """Whether a signal asked the program to end; errors after it are its echo."""
    return _received is not None


def output_was_closed() -> bool:
    """Whether nobody reads the standard output any more."""
    output = select.poll()
    output.register(sys.stdout, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0))


def promise(aftermath: str) -> None:
    """Says what holds when the program is stopped from now on, like "the same command goes on from here"."""
    global _aftermath
    _aftermath = aftermath


def set_up_logging() -> None:
    """Our own messages, and warnings of the libraries but TensorFlow, each with the time of day.

    TensorFlow's warnings are about its own workings, like the tracing of one function per model.
    """
    import logging as python_logging

    from absl import logging

    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    package = os.path.dirname(os.path.abspath(__file__))

    def wanted(record: python_logging.LogRecord) -> bool:
        lowest = python_logging.ERROR if record.name == "tensorflow" else python_logging.WARNING
        return record.levelno >= lowest or record.pathname.startswith(package)

    handler.addFilter(wanted)


def _ignore_signals() -> None:
    """What comes while Python shuts down comes too late: the status is decided and the work is done."""
    if _received is None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _take_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # `nohup` and shells' background jobs ignore Ctrl-C
            signal.signal(number, _stop)
    sys.unraisablehook = _end_where_nothing_can_be_raised


def _stop(number: int, frame: types.FrameType | None) -> None:
    global _received
    if _received is not None:
        os._exit(128 + _received)
    _received = number
    watchdog = threading.Timer(_PATIENCE_S, _end)
    watchdog.daemon = True
    watchdog.start()
    raise KeyboardInterrupt


def _end_where_nothing_can_be_raised(unraisable: "sys.UnraisableHookArgs") -> None:
    """A callback of a weak reference, say, had the signal's exception dropped: the run would go on."""
    if _received is not None and issubclass(unraisable.exc_type, KeyboardInterrupt):
        _end()
    sys.__unraisablehook__(unraisable)


def _end() -> None:
    """Says it in one sentence and leaves at once: what is on disk is safe at any time."""
    import multiprocessing  # late, since it takes a while

    number = _received or signal.SIGINT
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    for child in multiprocessing.active_children():
        child.kill()
    print(f"urnet: stopped by {name}{f'; {_aftermath}' if _aftermath else ''}.", file=sys.stderr, flush=True)
    os._exit(128 + number)
