"""Which units of a loop are complete, kept on the disk."""

import os
import pathlib
from collections.abc import Mapping

import numpy as np

from urnet_tf.store.files import read_json, write_json


class UnitLog:
    """Remembers which units of a long loop are complete, with a few metadata about each.

    One small file a unit, written atomically after the unit's results are on the disk, so a killed loop
    redoes at most the unit in hand.

    Args:
      directory: of the small files.
      total: how many units there are.
      columns: memory-mapped arrays that the units fill; other results must be on the disk by themselves.
    """

    def __init__(self, directory: str | os.PathLike, total: int, *columns: np.memmap):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.total = total
        self._columns = columns

    def pending(self) -> list[int]:
        """The units not yet complete, in order; one whose file cannot be read is not complete."""
        return [unit for unit in range(self.total) if not self._is_readable(unit)]

    def complete(self, unit: int, metadata: Mapping | None = None) -> None:
        """Marks a unit complete; `metadata` is JSON that `metadata()` gives back."""
        for column in self._columns:
            column.flush()
        write_json(self._path(unit), metadata)

    def metadata(self) -> list:
        """The metadata of all units in order; every unit must be complete."""
        return [read_json(self._path(unit)) for unit in range(self.total)]

    def _is_readable(self, unit: int) -> bool:
        try:
            read_json(self._path(unit))
        except (OSError, ValueError):
            return False
        return True

    def _path(self, unit: int) -> pathlib.Path:
        return self.directory / f"{unit:06d}.json"
