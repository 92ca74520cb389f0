"""Many objects at once, between a bucket and a folder: by threads, with progress and counts."""

import concurrent.futures
import pathlib
import shutil
from collections.abc import Callable, Sequence

from absl import logging

from urnet_tf.errors import RunError
from urnet_tf.store.progress import progress

_THREADS = 16  # they wait for the network
_MEGABYTE = 1e6
_SPARE_BYTES = 64 << 20


def transfer(what: str, sizes: Sequence[tuple[str, int]], move: Callable[[str], None]) -> None:
    """Moves objects by several threads; the first error stops what has not begun.

    Args:
      what: for the log: "3 files of pack".
      sizes: names and bytes.
      move: takes a name.
    """
    total = sum(size for _, size in sizes)
    if not sizes:
        return
    done, shown = 0, 0
    with (
        concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
        progress(None, what, total=max(1, round(total / _MEGABYTE)), unit="MB") as bar,
    ):
        moving = {pool.submit(move, name): size for name, size in sizes}
        try:
            for future in concurrent.futures.as_completed(moving):
                future.result()
                done += moving[future]
                now = round(done / _MEGABYTE)
                if now > shown:
                    bar.update(now - shown)
                    shown = now
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    logging.info("%s: %s files, %s.", what, f"{len(sizes):,}", say_bytes(total))


def check_room(folder: pathlib.Path, needed: int, what: str) -> None:
    """Raises RunError where a disk has no room for what is to come."""
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise RunError(
            f"Expected {say_bytes(needed)} of free disk for {what}; {folder} has {say_bytes(free)}. Free "
            "some, or give a cache on another disk (--cache DIR)."
        )


def say_bytes(count: int) -> str:
    """A number of bytes for a person.

    >>> say_bytes(1_234_567), say_bytes(12)
    ('1.2 MB', '12 bytes')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
