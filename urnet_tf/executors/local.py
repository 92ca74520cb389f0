"""Executors of this machine."""

import itertools
import os
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

from urnet_tf.errors import RunError
from urnet_tf.executors import worker
from urnet_tf.executors.contract import Job, Unit

_WAITING = 4  # units for each process: enough to keep it busy while results are merged


class InProcess:
    """Does one unit after the other, in this process.

    Args:
      workers: cores that a unit may keep busy.
    """

    elsewhere = False
    gpus: int | None = None

    def __init__(self, workers: int = 1) -> None:
        self._workers = workers

    def run(self, job: Job, units: Iterable[Unit]) -> Iterator[tuple[Unit, Any]]:
        """See `Executor.run`; in the order of the units."""
        work = job.open_work(self._workers)
        for unit in units:
            yield unit, work(unit)


class Processes:
    """Does units in processes, which take some seconds to start.

    Args:
      workers: how many processes.
    """

    elsewhere = True
    gpus: int | None = None

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def run(self, job: Job, units: Iterable[Unit]) -> Iterator[tuple[Unit, Any]]:
        """See `Executor.run`.

        Raises:
          RunError: a process was killed.
        """
        import concurrent.futures
        import multiprocessing

        ticket = worker.write_ticket(secrets.token_hex(8), job)
        cores = max(1, (os.cpu_count() or 1) // self._workers)
        context = multiprocessing.get_context("spawn")  # a fork would copy TensorFlow's threads and locks
        pool = concurrent.futures.ProcessPoolExecutor(
            self._workers, mp_context=context, initializer=worker.leave_interrupts_to_the_parent
        )
        left = iter(units)
        waiting: dict[concurrent.futures.Future[Any], Unit] = {}

        def submit(count: int) -> None:
            for unit in itertools.islice(left, count):
                waiting[pool.submit(worker.do_unit, ticket, job, cores, unit)] = unit

        try:
            submit(_WAITING * self._workers)
            while waiting:
                done, _ = concurrent.futures.wait(waiting, return_when="FIRST_COMPLETED")
                for future in sorted(done, key=list(waiting).index):
                    facts = future.result()
                    unit = waiting.pop(future)
                    submit(1)
                    yield unit, facts
        except concurrent.futures.process.BrokenProcessPool:
            raise RunError(
                f"A process that {job.does} was killed, perhaps because memory ran out. What is complete is "
                "kept: run again, with fewer `workers`."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
