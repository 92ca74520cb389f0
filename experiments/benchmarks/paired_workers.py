"""Processes of a benchmark's rows, which live together and take turns, and what else the machine does."""

import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping


class WorkerError(Exception):
    """A row gave no answer; the message says why."""


class Worker:
    """A process that gets its specification as JSON, and answers each line with a line of JSON.

    Args:
      script: what it runs.
      spec: plain JSON, its argument.
      limit_s: longest wait for an answer.
      python: the interpreter.
      environment: variables on top of those of this process.
    """

    def __init__(
        self,
        script: pathlib.Path,
        spec: Mapping,
        limit_s: float,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ):
        # urnet_tf, installed or not
        path = os.pathsep.join(filter(None, (str(script.parents[2]), os.environ.get("PYTHONPATH"))))
        self._limit_s = limit_s
        self._log = tempfile.TemporaryFile("w+", errors="replace")
        self._process = subprocess.Popen(
            [python, str(script), json.dumps(spec)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, text=True, env=os.environ | {"PYTHONPATH": path} | (environment or {}),
        )  # fmt: skip

    def ask(self, *request):
        """Sends the words of a request and waits for the answer."""
        try:
            print(*request, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass  # the worker ended; its log says why
        return self.answer()

    def answer(self):
        """The next answer.

        Raises:
          WorkerError: none within the limit, or the process ended.
        """
        if not select.select([self._process.stdout], [], [], self._limit_s)[0]:
            raise WorkerError(f"over {self._limit_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            lines = self._log.read().strip().splitlines() or ["no message"]
            errors = [text for text in lines if "Error" in text] or lines
            raise WorkerError(f"ended with {code}: {errors[-1].strip()[:300]}")
        return json.loads(line)

    def stop(self):
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            try:
                stream.close()
            except BrokenPipeError:
                pass  # a request that the worker did not live to read


def count_busy_cores(seconds: float) -> float:
    """How many cores are at work during a wait in which no worker is; 0 where Linux does not tell."""

    def times():
        fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        return sum(map(int, fields)), int(fields[3]) + int(fields[4])

    try:
        (total, idle), _, (total_then, idle_then) = times(), time.sleep(seconds), times()
    except OSError:
        return 0.0
    return os.cpu_count() * (1 - (idle_then - idle) / max(1, total_then - total))
