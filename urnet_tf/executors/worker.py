"""What a process does with the units that it is given."""

import contextlib
import functools
import importlib.metadata
import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from urnet_tf import __version__
from urnet_tf.errors import UsageError
from urnet_tf.executors.contract import Job

# What decides bytes; the list holds what any job uses.
_PACKAGES = ("ai-edge-litert", "array-record", "keras", "numpy", "opencv-python-headless", "pillow",
             "pillow-heif", "scikit-learn", "tensorflow")  # fmt: skip
_SHOWN_AFTER_S = 30.0  # a network share shows other machines a new file
_NOTE = "units_shared"  # a name of units, which no stage keeps

# The work of the last job; a process that outlives it drops its network when the next one comes.
_opened: dict[str, Callable[[Any], Any]] = {}


@functools.cache  # it takes milliseconds to read
def versions() -> dict[str, str]:
    """Versions of what decides results, of this process."""
    found = {"urnet_tf": __version__, "python": ".".join(map(str, sys.version_info[:2]))}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


class Ticket(NamedTuple):
    """Lets a process of another machine find out whether it is fit for a job.

    name: of the job, unlike all others.
    shared: see `Job`; in the first, a folder, lies a note with the name.
    versions: that the process must have.
    folder: in which the run was started, where relative paths begin.
    """

    name: str
    shared: tuple[str, ...]
    versions: Mapping[str, str]
    folder: str

    def check(self, patience_s: float = _SHOWN_AFTER_S) -> None:
        """Looks whether the storage is the same and the versions are.

        Raises:
          UsageError: they are not.
        """
        here, wanted = versions(), self.versions
        for name in wanted:
            if here.get(name) != wanted[name]:
                raise UsageError(
                    f"Expected {name} {wanted[name]} on each node, as where the run was started; node "
                    f"{_node()} has {here.get(name)}. Start all of them from one image."
                )
        end = time.monotonic() + patience_s
        while problem := self._find_missing():
            if time.monotonic() > end:
                raise UsageError(
                    f"Expected {problem} on storage that all nodes share, under one path; node {_node()} "
                    "does not see it. Mount the share there, too."
                )
            time.sleep(0.2)

    def _find_missing(self) -> str | None:
        """What this machine does not have, or has otherwise."""
        if not self.shared:
            return None
        try:
            is_same = (pathlib.Path(self.shared[0]) / _NOTE).read_text() == self.name
        except OSError:
            is_same = False
        missing = [] if is_same else [self.shared[0]]
        return next(iter([*missing, *(path for path in self.shared if not os.path.exists(path))]), None)


def write_ticket(name: str, job: Job) -> Ticket:
    """The ticket of a job, whose folder gets a note."""
    shared = tuple(os.path.abspath(path) for path in job.shared if path)
    if shared:
        (pathlib.Path(shared[0]) / _NOTE).write_text(name)
    return Ticket(name, shared, versions(), os.getcwd())


def do_unit(ticket: Ticket, job: Job, cores: int, unit: Any) -> Any:
    """The facts of a unit; what the job needs is opened by the first that a process does."""
    if ticket.name not in _opened:
        with contextlib.suppress(OSError):  # a node that lacks it lacks what is shared below it, too
            os.chdir(ticket.folder)
        ticket.check()
        _opened.clear()
        _opened[ticket.name] = job.open_work(cores)
    return _opened[ticket.name](unit)


def leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches every process of a terminal's group; one of them answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _node() -> str:
    return socket.gethostname()
