"""Work for tests of executors, which other processes import by this name."""

import functools
import os
import pathlib
import signal
import time

from urnet_tf import store
from urnet_tf.errors import UsageError
from urnet_tf.executors import Job


def write_squares(folder, cores):
    """Opens work whose units write files of numbers; the facts tell who did them."""
    opened = os.getpid(), time.monotonic_ns()

    def work(unit):
        path = pathlib.Path(folder) / f"part-{unit:06d}.txt"
        with store.unit_lock(path.with_suffix(".lock")):
            store.write_text(path, "\n".join(str(n * n) for n in range(unit)))
        return {"opened": opened, "cores": cores, **store.describe_part(path)}

    return work


def refuse(error, cores):
    def work(unit):
        if unit == 2:
            raise error
        return unit

    return work


def die(marks, times, cores):
    """Opens work that dies at its unit 2, so many times."""

    def work(unit):
        mark = pathlib.Path(marks) / f"{os.getpid()}.mark"
        if unit == 2 and len(list(mark.parent.glob("*.mark"))) < times:
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return unit

    return work


def fail_first(marks, error, times, cores):
    """Opens work that raises an error, so many times."""

    def work(unit):
        done = len(list(pathlib.Path(marks).glob("*.mark")))
        if done < times:
            (pathlib.Path(marks) / f"{done}.mark").touch()
            raise error
        return unit

    return work


def wait(seconds, cores):
    def work(unit):
        time.sleep(seconds)
        return unit

    return work


def squares(folder):
    return Job(functools.partial(write_squares, folder), "squares numbers", shared=(folder,))


REFUSED = UsageError("Expected another unit.")
