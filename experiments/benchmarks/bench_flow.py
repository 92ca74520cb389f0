"""Seconds and peak memory of every stage of a run from an empty work directory, and of a second run.

    python experiments/benchmarks/bench_flow.py --data CRAWL --config experiments/configs/webtiny.yaml

Memory is the largest resident set of the process up to the end of a stage.
"""

import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from urnet_tf.stages import NAMES
from urnet_tf.store import Workdir

_DATA = flags.DEFINE_string("data", None, "the crawl", required=True)
_CONFIG = flags.DEFINE_string("config", None, "YAML configuration")
_SET = flags.DEFINE_multi_string("set", [], "section.key=value")


def main(_):
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "urnet_tf", "run", "--data", _DATA.value, "--workdir", directory]
        command += ["--config", _CONFIG.value] if _CONFIG.value else []
        command += [part for setting in _SET.value for part in ("--set", setting)]
        first, second = (_seconds(command, pathlib.Path(directory, "log.txt")) for _ in range(2))
        workdir = Workdir(directory)
        print(f"{'stage':<10}{'seconds':>9}{'share':>8}{'peak MB':>9}")
        for name in NAMES:
            marker = workdir.marker(name)
            share, peak = marker["seconds"] / first, marker["peak_memory_bytes"] / 1e6
            print(f"{name:<10}{marker['seconds']:>9.1f}{share:>8.1%}{peak:>9.0f}")
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
        print(f"{'all':<10}{first:>9.1f}{'':>8}{children:>9.0f}")
        print(f"second run {second:.1f} s, {second / first:.1%} of the first; {os.cpu_count()} cores")


def _seconds(command, log):
    start = time.monotonic()
    with open(log, "a") as file:
        done = subprocess.run(command, stdout=file, stderr=file)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    return time.monotonic() - start


if __name__ == "__main__":
    app.run(main)
