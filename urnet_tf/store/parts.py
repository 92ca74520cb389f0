"""Parts: files that other processes, on other machines perhaps, write for the one that merges them.

A part is written by `files.atomic_path` and described by its size and hash. Who merges it checks both, since
between the machines lies a file system that may show things late.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from urnet_tf.errors import RunError
from urnet_tf.store.files import hash_file

_SHOWN_AFTER_S = 60.0  # a network share shows a file that another machine wrote
_LOCKED_S = 60.0  # after which a unit is done although someone else is at it
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


def describe_part(path: str | os.PathLike) -> dict[str, Any]:
    """The size and hash of a part, for `check_part`: {"bytes": 12, "hash": "..."}."""
    return {"bytes": os.stat(path).st_size, "hash": hash_file(path)}


def check_part(
    path: str | os.PathLike, facts: Mapping[str, Any], *, patience_s: float = _SHOWN_AFTER_S
) -> None:
    """Looks whether a part is what its writer has described.

    Args:
      facts: of `describe_part`, and perhaps others.
      patience_s: how long to wait for it.

    Raises:
      RunError: it is not.
    """
    end = time.monotonic() + patience_s
    while problem := _problem_of(path, facts):
        if time.monotonic() > end:
            raise RunError(
                f"{os.fspath(path)} is not as a node wrote it: {problem}. Is it on storage that all nodes "
                "share? The same command makes it again."
            )
        time.sleep(0.2)


def _problem_of(path: str | os.PathLike, facts: Mapping[str, Any]) -> str | None:
    try:
        size = os.stat(path).st_size
        if size != facts["bytes"]:
            return f"it has {size:,} bytes instead of {facts['bytes']:,}"
        return None if hash_file(path) == facts["hash"] else "its contents differ"
    except FileNotFoundError:
        return "it is missing"


@contextlib.contextmanager
def unit_lock(path: str | os.PathLike, *, patience_s: float = _LOCKED_S) -> Iterator[bool]:
    """Keeps two processes from doing one unit at the same time; yields whether it is held.

    A scheduler that has lost sight of a node gives its unit to another one. That both write the same bytes
    makes this harmless; the lock only saves the work of the second. It vanishes with its process. Where the
    file system knows no locks, or the other process holds it for too long, the unit is done all the same.

    Args:
      path: of the lock, an empty file in a folder that is there.
    """
    with open(pathlib.Path(path), "a") as file:
        end, held = time.monotonic() + patience_s, False
        while not held:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                if time.monotonic() > end:
                    break
                time.sleep(0.1)
            except OSError as error:
                if error.errno not in _WITHOUT_LOCKS:
                    raise
                break
        yield held
