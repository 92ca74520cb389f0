"""The contract of offline work: a unit goes in, files on the disk and a few facts come out.

A unit is done by a function that depends on nothing but the unit and what `Job.open_work` has opened. It is
pure: the same unit gives the same bytes, whoever does it, how often and beside whom. It is atomic: its file
is there as a whole or not at all. So a unit may be done twice, by two nodes at once even, and nothing is lost
where a node dies. Only one process, the one that iterates over `Executor.run`, merges what comes back and
marks units complete.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

Unit = TypeVar("Unit")


class Job(NamedTuple):
    """Work of one kind.

    open_work: takes how many cores a unit may keep busy, gives the function unit → facts; both are pickled
      for other processes, which open the work once. Facts are few, and picklable.
    does: what the work is, after "a process that": "packs images".
    gpus: that a unit needs for itself.
    shared: files and folders that must be there on every machine. The first is a folder to which they write.
    """

    open_work: Callable[[int], Callable[[Any], Any]]
    does: str
    gpus: int = 0
    shared: tuple[str | os.PathLike, ...] = ()


class Executor(Protocol):
    """Does units.

    Attributes:
      elsewhere: whether units run in other processes, so that what they make comes back by files.
      gpus: GPUs that the executor hands out; None = those of this machine, which it knows nothing of.
    """

    elsewhere: bool
    gpus: int | None

    def run(self, job: Job, units: Iterable[Unit]) -> Iterator[tuple[Unit, Any]]:
        """Yields (unit, facts) as units become complete.

        Units are taken from the iterable as they are needed. Closing the iterator gives up what is left.

        Raises:
          UsageError: nodes lack what they need.
          RunError: a unit failed for good, though the request was sound.
          Exception: whatever the work raises.
        """
