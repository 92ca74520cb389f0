"""How far long loops are: a bar on a terminal, a line every half minute in a log."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, Self

from absl import logging

if TYPE_CHECKING:
    from tqdm import tqdm

_SECONDS = 30.0


def progress(
    iterable: Iterable | None,
    description: str,
    total: int | None = None,
    unit: str = "it",
    initial: int = 0,
) -> "tqdm | _LogLines":
    """Wraps an iterable, or gives an object with `update(n)` to use in a `with` statement.

    Args:
      iterable: what is passed on, counted; None where the loop calls `update` itself.
      total: how many there are; None = the length of the iterable, if it has one.
      initial: how many were done before.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if not sys.stderr.isatty():
        return _LogLines(iterable, description, total, unit, initial)
    from tqdm import tqdm

    return tqdm(
        iterable, desc=description, total=total, unit=unit, initial=initial, mininterval=1.0,
        dynamic_ncols=True,
    )  # fmt: skip


class _LogLines:
    """The part of tqdm that is used here; loops of less than half a minute write nothing."""

    def __init__(
        self, iterable: Iterable | None, description: str, total: int | None, unit: str, initial: int
    ) -> None:
        self._iterable, self._description, self._total, self._unit = iterable, description, total, unit
        self._initial = self._done = initial
        self._start = self._written = time.monotonic()

    def __iter__(self) -> Iterator:
        for item in self._iterable or ():
            yield item
            self.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def update(self, n: int = 1) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._written < _SECONDS or self._done == self._total:
            return
        self._written = now
        if self._total is None:
            logging.info("%s: %d %s", self._description, self._done, self._unit)
            return
        left = (now - self._start) / (self._done - self._initial) * (self._total - self._done)
        logging.info(
            "%s: %d of %d %s, about %.0f s left", self._description, self._done, self._total, self._unit, left
        )
