"""Joins the rows of waiting requests into batches for a model, within limits of rows, pixels and time.

A batch starts as soon as the model is free, so a lone request never waits for company; what arrives meanwhile
is the next batch. It is filled up with empty rows to one of a few sizes, since a library may set things up
anew for each size that it meets. Images are decoded in their batch, so the pixels of a batch bound the memory
that decoding takes, however many requests there are.
"""

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class QueueFull(Exception):
    """So much waits already that a request is not taken.

    Attributes:
      retry_after_s: when about half of it will be done.
    """

    def __init__(self, retry_after_s: int):
        super().__init__("the queue is full")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Exception):
    """The answer was not there in time; nothing of the request is computed any more."""


class BatchingLimits(NamedTuple):
    """What a `Batcher` keeps to.

    Attributes:
      sizes: rows that a batch may have, ascending; the last is the most.
      queue_rows: rows that may wait.
      batch_pixels: of the images of a batch, unless it is a single one; None = any.
      parallel: batches that are computed at once.
    """

    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    queue_rows: int = 256
    batch_pixels: int | None = None
    parallel: int = 1


@dataclass(eq=False)
class _Part:
    """Rows of a request that go into one batch."""

    key: Hashable
    inputs: Arrays
    rows: int
    pixels: int
    result: "asyncio.Future[Arrays]"
    waits: bool = True  # in the queue, for somebody


class Batcher:
    """Computes requests in batches; used by one event loop.

    Args:
      run: key, inputs → outputs, arrays of as many rows; called in threads. Rows of one key share a batch.
      limits: see there.
      observe: is told the rows of each batch and its seconds.
    """

    def __init__(
        self,
        run: Callable[[Hashable, Arrays], Mapping[str, np.ndarray]],
        limits: BatchingLimits,
        observe: Callable[[int, float], None] = lambda rows, seconds: None,
    ):
        self._run, self._limits, self._observe = run, limits, observe
        self._parts: collections.deque[_Part] = collections.deque()
        self._arrived = asyncio.Event()
        self._rows_per_s = float(limits.sizes[-1])  # a guess, until batches have been timed
        self.queued_rows = 0

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Batches are computed inside of this block; what is in work at its end is finished."""
        with ThreadPoolExecutor(self._limits.parallel, "batch") as threads:
            workers = [asyncio.create_task(self._work(threads)) for _ in range(self._limits.parallel)]
            try:
                yield
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def submit(
        self, key: Hashable, inputs: Arrays, pixels: Sequence[int] | None, timeout_s: float
    ) -> Arrays:
        """Computes the rows of a request.

        Args:
          key: what they share a batch by.
          inputs: arrays of n rows.
          pixels: of each row's image; None = they hold none.

        Raises:
          QueueFull: too much waits.
          DeadlineExceeded: it took longer than `timeout_s`.
        """
        rows = len(next(iter(inputs.values())))
        if self.queued_rows + rows > self._limits.queue_rows:
            raise QueueFull(min(60, max(1, round(self.queued_rows / 2 / self._rows_per_s))))
        loop = asyncio.get_running_loop()
        parts = [
            _Part(key, {name: array[start:end] for name, array in inputs.items()}, end - start,
                  sum(pixels[start:end]) if pixels else 0, loop.create_future())
            for start, end in self._cut(rows, pixels)
        ]  # fmt: skip
        self._parts.extend(parts)
        self.queued_rows += rows
        self._arrived.set()
        try:
            async with asyncio.timeout(timeout_s):
                answers = await asyncio.gather(*(part.result for part in parts))
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            for part in parts:  # of a request that failed, timed out or was given up
                self._take(part)
                if not part.result.cancel() and not part.result.cancelled():
                    part.result.exception()  # has been told, by one of them
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def _cut(self, rows: int, pixels: Sequence[int] | None) -> list[tuple[int, int]]:
        """Where the parts of a request begin and end: as large as a batch may be."""
        most, budget = self._limits.sizes[-1], self._limits.batch_pixels
        cuts, start, held = [], 0, 0
        for row in range(rows):
            size = pixels[row] if pixels else 0
            too_large = budget is not None and held + size > budget
            if row > start and (row - start == most or too_large):
                cuts.append((start, row))
                start, held = row, 0
            held += size
        return [*cuts, (start, rows)]

    async def _work(self, threads: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = self._next_batch()
            if not batch:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            computing = loop.run_in_executor(threads, self._compute, batch)
            try:
                answers = await asyncio.shield(computing)
            except asyncio.CancelledError:  # the end of the block; what is in work may still be answered
                with contextlib.suppress(Exception):
                    _tell(batch, await computing)
                raise
            except Exception as error:  # of the model; those who sent the rows are told
                for part in batch:
                    if not part.result.done():
                        part.result.set_exception(error)
            else:
                _tell(batch, answers)

    def _next_batch(self) -> list[_Part]:
        """Takes the parts that have waited longest and go together."""
        batch: list[_Part] = []
        left: list[_Part] = []
        rows = pixels = 0
        most, budget = self._limits.sizes[-1], self._limits.batch_pixels
        while self._parts and rows < most:
            part = self._parts.popleft()
            if not part.waits:
                continue
            fits = rows + part.rows <= most and (budget is None or pixels + part.pixels <= budget)
            if not batch or (part.key == batch[0].key and fits):
                batch.append(part)
                self._take(part)
                rows, pixels = rows + part.rows, pixels + part.pixels
            else:
                left.append(part)
        self._parts.extendleft(reversed(left))
        return batch

    def _take(self, part: _Part) -> None:
        """Counts a part as waiting no longer."""
        self.queued_rows -= part.rows if part.waits else 0
        part.waits = False

    def _compute(self, batch: list[_Part]) -> list[Arrays]:
        start = time.perf_counter()
        rows = sum(part.rows for part in batch)
        size = next(size for size in self._limits.sizes if size >= rows)
        joined = {name: _filled([part.inputs[name] for part in batch], size) for name in batch[0].inputs}
        outputs = self._run(batch[0].key, joined)
        ends = np.cumsum([part.rows for part in batch])
        answers = [
            {name: values[end - part.rows : end] for name, values in outputs.items()}
            for part, end in zip(batch, ends, strict=True)
        ]
        seconds = time.perf_counter() - start
        self._rows_per_s += 0.1 * (self._limits.parallel * rows / max(seconds, 1e-6) - self._rows_per_s)
        self._observe(rows, seconds)
        return answers


def fill_rows(array: np.ndarray, size: int) -> np.ndarray:
    """`array` with empty rows behind it, so that there are `size`: zeros, or strings of no bytes."""
    missing = size - len(array)
    if not missing:
        return array
    empty = np.zeros((missing, *array.shape[1:]), array.dtype)
    if array.dtype == object:
        empty.fill(b"")
    return np.concatenate([array, empty])


def _filled(arrays: list[np.ndarray], size: int) -> np.ndarray:
    return fill_rows(np.concatenate(arrays) if len(arrays) > 1 else arrays[0], size)


def _tell(batch: list[_Part], answers: list[Arrays]) -> None:
    for part, answer in zip(batch, answers, strict=True):
        if not part.result.done():
            part.result.set_result(answer)
