"""Programs that run together as the machines of one cluster, on this machine's loopback alone.

TensorFlow listens on all addresses, so they run in a network of their own that has no other. Run as a program
inside of it, this file starts them: `cluster.py SPECIFICATION.json`.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
LONGEST_S = 400


@dataclasses.dataclass(frozen=True)
class Ended:
    """How the machines ended: exit statuses and what they said."""

    statuses: list[int]
    logs: list[str]


def own_network() -> list[str]:
    """The beginning of a command that runs in a network of loopback alone; skips where there can be none."""
    import pytest

    start = ["unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("a network of loopback alone needs the commands unshare and ip")
    if subprocess.run([*start, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody make a network of loopback alone")
    return start


def run_together(
    directory: pathlib.Path, commands: Sequence[Sequence[str]], kill: tuple[int, pathlib.Path] | None = None
) -> Ended:
    """Runs one command a machine, to the end of all; skips where there can be no network of its own.

    Args:
      directory: for logs.
      kill: a machine that is killed as soon as a file is there.
    """
    start = own_network()
    logs = [directory / f"machine{rank}.log" for rank in range(len(commands))]
    specification = {
        "commands": [list(command) for command in commands],
        "logs": list(map(str, logs)),
        "kill": None if kill is None else [kill[0], str(kill[1])],
    }
    path = directory / "machines.json"
    path.write_text(json.dumps(specification))
    done = subprocess.run(
        [*start, sys.executable, __file__, str(path)], cwd=REPOSITORY, capture_output=True, text=True,
        timeout=LONGEST_S + 30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Ended(json.loads(done.stdout), [log.read_text() for log in logs])


def _start(specification: dict) -> list[int]:
    commands = specification["commands"]
    cluster = {"worker": [f"127.0.0.1:{12_000 + rank}" for rank in range(len(commands))]}
    processes = []
    for rank, (command, log) in enumerate(zip(commands, specification["logs"], strict=True)):
        config = {"cluster": cluster, "task": {"type": "worker", "index": rank}}
        environment = {
            **os.environ, "TF_CONFIG": json.dumps(config), "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": str(REPOSITORY),
        }  # fmt: skip
        with open(log, "wb") as file:
            processes.append(subprocess.Popen(command, env=environment, stdout=file, stderr=file))
    until = time.monotonic() + LONGEST_S
    while any(process.poll() is None for process in processes):
        if specification["kill"] is not None and os.path.exists(specification["kill"][1]):
            processes[specification["kill"][0]].send_signal(signal.SIGKILL)
            specification["kill"] = None
        if time.monotonic() > until:
            for process in processes:
                process.kill()
        time.sleep(0.02)
    return [process.returncode for process in processes]


if __name__ == "__main__":
    print(json.dumps(_start(json.loads(pathlib.Path(sys.argv[1]).read_text()))))
