"""What this machine has: GPUs, memory."""

import glob
import os
import pathlib


def count_gpus() -> int:
    """NVIDIA devices of this machine that may be used, without a driver or TensorFlow."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = len(glob.glob("/dev/nvidia[0-9]*"))
    if visible is None:
        return found
    return min(found, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))


def memory_bytes() -> int:
    """Bytes of memory that this process may use: the machine's, or the limit of its container."""
    try:
        limit = pathlib.Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, int(limit)) if limit.isdecimal() else machine
