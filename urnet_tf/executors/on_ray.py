"""The executor that gives units to the nodes of a Ray cluster.

Ray decides which node does what, and gives the units of a dead node to others; nothing here schedules.
"""

import contextlib
import itertools
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from absl import logging

from urnet_tf.errors import RunError, UsageError
from urnet_tf.executors import worker
from urnet_tf.executors.contract import Job, Unit
from urnet_tf.extras import require
from urnet_tf.text_rules import first_line

_AUTO = "auto"  # what Ray itself calls the cluster that this machine belongs to
_RETRIES = 5  # of a unit: nodes that die, processes that run out of memory, storage that fails
_FEWEST_WAITING, _WAITING_A_CORE = 64, 4  # units handed to Ray: enough that an autoscaler adds nodes
_ANSWERS_AFTER_S = 10.0
_SILENT_S = 60.0


class RayCluster:
    """Does units on the nodes of a Ray cluster, one for each core, or for each GPU where a unit needs one.

    All nodes must see the same files under the same paths, and have the same versions of what decides
    results. A process keeps what a job has opened for its next unit.

    Args:
      address: HOST:PORT of the cluster's head; "auto" = `$RAY_ADDRESS`, or the cluster that this machine is
        a part of. A connection that this process already has is used as it is.

    Raises:
      UsageError: Ray is not installed, or nothing answers there.
    """

    elsewhere = True

    def __init__(self, address: str = _AUTO) -> None:
        require("ray", "ray", purpose="The executor ray", otherwise="choose the executor local or processes")
        import ray

        if not ray.is_initialized():
            _connect(address)
        resources = ray.cluster_resources()
        self.gpus: int | None = int(resources.get("GPU", 0))
        self._cores = int(resources.get("CPU", 0))

    def run(self, job: Job, units: Iterable[Unit]) -> Iterator[tuple[Unit, Any]]:
        """See `Executor.run`."""
        import ray

        ticket = worker.write_ticket(secrets.token_hex(8), job)
        do_unit = ray.remote(
            num_cpus=1, num_gpus=job.gpus, max_retries=_RETRIES, retry_exceptions=[OSError, MemoryError],
            max_calls=0,  # of a process: without a limit, also where it has a GPU
        )(worker.do_unit)  # fmt: skip
        opened = ray.put(job)
        left = iter(units)
        waiting: dict[ray.ObjectRef[Any], Unit] = {}

        def submit(count: int) -> None:
            for unit in itertools.islice(left, count):
                waiting[do_unit.remote(ticket, opened, 1, unit)] = unit

        try:
            submit(max(_FEWEST_WAITING, _WAITING_A_CORE * self._cores))
            while waiting:
                finished, _ = ray.wait(list(waiting), num_returns=1, timeout=_SILENT_S)
                if not finished:
                    _tell_if_nobody_works(job)
                for done in finished:
                    facts = _facts_of(done, job)
                    unit = waiting.pop(done)
                    submit(1)
                    yield unit, facts
        finally:
            for reference in waiting:
                with contextlib.suppress(Exception):  # of a cluster that is gone
                    ray.cancel(reference)


def _connect(address: str) -> None:
    """Connects this process to a cluster.

    Raises:
      UsageError: nothing answers.
    """
    import ray

    named = os.environ.get("RAY_ADDRESS", _AUTO) if address == _AUTO else address
    host, _, port = named.rpartition(":")
    if named != _AUTO and (not host or not port.isdecimal()):
        raise UsageError(f"Expected `address` to be HOST:PORT of a Ray cluster, or auto; received {named}.")
    handlers = _handlers()
    try:
        if named != _AUTO:  # of which Ray would try to convince itself for minutes
            socket.create_connection((host, int(port)), _ANSWERS_AFTER_S).close()
        ray.init(address=named, log_to_driver=False, logging_level="ERROR")
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        where = "" if named == _AUTO else f" at {named}"
        raise UsageError(
            f"Expected a Ray cluster{where}; none answers ({first_line(error).rstrip('.')}). Start one with "
            "`ray start --head`, or say where it is with --address HOST:PORT."
        ) from None
    finally:
        for number, handler in handlers.items():  # Ray puts its own in their place
            signal.signal(number, handler)
    resources, nodes = ray.cluster_resources(), [node for node in ray.nodes() if node["Alive"]]
    logging.info(
        "Ray: %d nodes with %d cores and %d GPUs.",
        len(nodes), resources.get("CPU", 0), resources.get("GPU", 0),
    )  # fmt: skip


def _tell_if_nobody_works(job: Job) -> None:
    """A line in the log where no node could do a unit."""
    import ray

    there = ray.cluster_resources()
    if there.get("CPU", 0) < 1 or there.get("GPU", 0) < job.gpus:
        what = "a GPU" if job.gpus else "a core"
        logging.warning("Ray: no node with %s is there; the run waits until one comes.", what)


def _handlers() -> dict[signal.Signals, Any]:
    """How this process answers signals; nothing where another thread than the main one asks."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _facts_of(reference: Any, job: Job) -> Any:
    """What became of a unit.

    Raises:
      RunError: it failed as often as it may, for a reason outside of the work.
      Exception: of the work.
    """
    import ray

    advice = "What is complete is kept: mend that, and the same command goes on from here."
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, (UsageError, RunError)):
            raise cause from None
        if isinstance(cause, (OSError, MemoryError)):
            raise RunError(
                f"A node that {job.does} failed {_RETRIES + 1} times at the same unit, at last with: "
                f"{first_line(cause).rstrip('.')}. {advice}"
            ) from error
        if isinstance(cause, ModuleNotFoundError):
            raise UsageError(
                f"Expected urnet_tf and all that it needs on each node; {first_line(cause).rstrip('.')} on "
                "one of them. Start all of them from one image."
            ) from error
        raise
    except ray.exceptions.RayError as error:
        raise RunError(
            f"A node or process that {job.does} died {_RETRIES + 1} times at the same unit, at last with: "
            f"{first_line(error).rstrip('.')}. It may need more memory than the node has. {advice}"
        ) from error
