"""Several lists as one: of the shards and splits of a dataset."""

import bisect
import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from urnet_tf.crawl.list_tables import ListTable, empty_table


def joined(tables: Sequence[ListTable], path: str) -> ListTable:
    """All rows under running line numbers; messages go on calling a row by its own file.

    Args:
      path: names the whole.
    """
    whole = empty_table(path)
    starts, parts = [0], []
    for found in tables:
        lines = found.table["line"].to_numpy()
        place = found.table.schema.get_field_index("line")
        shifted = pa.array(np.asarray(lines) + starts[-1], pa.int64())
        parts.append(found.table.set_column(place, found.table.schema.field("line"), shifted))
        starts.append(starts[-1] + int(max(lines, default=0)))
        for row in found.bad.table().to_pylist():
            whole.bad.append(tuple(row.values()))
        whole.notes += found.notes
    whole.notes = list(itertools.islice(dict.fromkeys(whole.notes), 20))
    if parts:
        whole.table = pa.concat_tables(parts)

    def row_name(line: int) -> str:
        part = bisect.bisect_left(starts, line) - 1
        return tables[part].row_name(line - starts[part])

    whole.row_name = row_name
    return whole
