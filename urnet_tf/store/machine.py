"""What this machine has: GPUs, memory, open files."""

import contextlib
import glob
import json
import os
import pathlib
import resource
import sys

_OTHER_FILES = 512  # that a process has open besides; half of the usual limit of 1024
_MOST_FILES = 65_536


def count_gpus() -> int:
    """NVIDIA devices of this machine that may be used, without a driver or TensorFlow."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = len(glob.glob("/dev/nvidia[0-9]*"))
    if visible is None:
        return found
    return min(found, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))


def count_machines() -> int:
    """How many machines train together with this one, as TF_CONFIG or Slurm says; 1 where neither does."""
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG", "{}"))["cluster"]
        return max(1, sum(len(cluster.get(kind, ())) for kind in ("chief", "worker")))
    except (ValueError, KeyError, TypeError, AttributeError):
        tasks = os.environ.get("SLURM_NTASKS", "1")
        return max(1, int(tasks)) if tasks.isdecimal() else 1


def memory_bytes() -> int:
    """Bytes of memory that this process may use: the machine's, or the limit of its container."""
    try:
        limit = pathlib.Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, int(limit)) if limit.isdecimal() else machine


def reset_peak_memory() -> None:
    """Lets `peak_memory_bytes` begin anew, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """The most memory that this process has held since the last reset, or since it began."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most


def allow_open_files(wanted: int) -> int:
    """How many of the wanted files this process may have open together, and at least one.

    Where that is fewer, its limit is raised as far as the system lets a user raise it (`ulimit -Hn`).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    needed = min(wanted, _MOST_FILES) + _OTHER_FILES
    if soft != unlimited and soft < needed:
        raised = needed if hard == unlimited else min(needed, hard)
        with contextlib.suppress(ValueError, OSError):  # a sandbox may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    allowed = needed if soft == unlimited else min(needed, soft)
    return max(1, allowed - _OTHER_FILES)
