"""Rows of a Parquet table that is larger than the memory should be, some at a time and in order."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.store.files import with_large_texts

if TYPE_CHECKING:
    import pyarrow as pa


class TableRows:
    """Reads slices of rows; holds the last row group that was read (1,048,576 rows, as `write_table` writes).

    Args:
      path: a Parquet file.
      columns: that are read.
    """

    def __init__(self, path: str | os.PathLike, columns: Sequence[str]):
        import pyarrow.parquet

        self._file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
        self._columns = list(columns)
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._bounds = np.cumsum([0, *sizes])
        self._held: tuple[int, pa.Table | None] = (-1, None)

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def read(self, start: int, stop: int) -> "pa.Table":
        """The rows from `start` to before `stop`, texts as large strings."""
        import pyarrow as pa

        first, last = np.searchsorted(self._bounds, [start, max(stop - 1, start)], side="right") - 1
        parts = []
        for group in range(max(int(first), 0), min(int(last), len(self._bounds) - 2) + 1):
            begin = int(self._bounds[group])
            table = self._group(group)
            parts.append(table.slice(max(start - begin, 0), max(stop - max(start, begin), 0)))
        if not parts:
            return with_large_texts(self._file.schema_arrow.empty_table().select(self._columns))
        return pa.concat_tables(parts)

    def _group(self, group: int) -> "pa.Table":
        if self._held[0] != group:
            self._held = (-1, None)  # so that two are never in memory
            self._held = group, with_large_texts(self._file.read_row_group(group, self._columns))
        table = self._held[1]
        assert table is not None
        return table
