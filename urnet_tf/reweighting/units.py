"""Long loops in units whose results are kept as they come: in memory here, on the disk where a caller wants.

The functions that loop take `open_units`, which gives them the column to fill and the record of what is
already there. A caller whose column and record lie on the disk can be killed and called again.

Source: not in the paper.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np


class Units(Protocol):
    """Which units of a loop are complete, with a few metadata about each."""

    def pending(self) -> list[int]:
        """The units not yet complete, in order."""

    def complete(self, unit: int, metadata: Any = None) -> None:
        """Marks a unit whose rows of the column are filled."""

    def metadata(self) -> list:
        """The metadata of all units in order."""


# (name of the loop, name of the column, units, shape and dtype of the column) → the column, its units
OpenUnits = Callable[[str, str, int, tuple[int, ...], type], tuple[np.ndarray, Units]]


class UnitsInMemory:
    """Forgets everything with the process."""

    def __init__(self, total: int):
        self._metadata: list = [None] * total
        self._pending = set(range(total))

    def pending(self) -> list[int]:
        return sorted(self._pending)

    def complete(self, unit: int, metadata: Any = None) -> None:
        self._metadata[unit] = metadata
        self._pending.discard(unit)

    def metadata(self) -> list:
        return self._metadata


def open_in_memory(
    name: str, column: str, total: int, shape: tuple[int, ...], dtype: type
) -> tuple[np.ndarray, Units]:
    """The `open_units` of callers that do not resume."""
    return np.empty(shape, dtype), UnitsInMemory(total)
