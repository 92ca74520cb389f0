"""Looks into the files of a crawl, unit by unit: a part of the stage ingest.

What earlier runs have found out is taken over; see `known_files`. Everything else is read and decoded once:
for its status, for its thumbnail, and for the record that the stage pack will want, which is kept ahead as
long as the disk has room for it twice. A killed run takes up behind the last finished unit.
"""

import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import logging

from urnet_tf.export.quiet import CapturedLibraryOutput
from urnet_tf.images.inspection import Inspection, Inspector
from urnet_tf.images.known_records import RecordsAhead
from urnet_tf.images.probe import PROBE_COLUMNS, environment_failure, identify_file, map_in_threads
from urnet_tf.images.thumbnails import THUMBNAIL_BYTES
from urnet_tf.stages.known_files import (
    THUMBNAILS,
    UNIT_COLUMNS,
    UNITS,
    keys_of_files,
    note_how,
    open_known_files,
)
from urnet_tf.stages.settings import open_packer, packed_with
from urnet_tf.stages.stage import SPARE_BYTES, StageContext
from urnet_tf.store import AHEAD, UnitLog, arrow_type, columns_of, open_column, read_table, write_table
from urnet_tf.store.lookup import keys_of_hex
from urnet_tf.store.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa

    from urnet_tf.crawl.table import Crawl

FILES_PER_UNIT = 2048
_THREADS_PER_CORE = 4  # threads mostly wait for the disk
_COLUMNS = PROBE_COLUMNS | UNIT_COLUMNS


class InspectedFiles(NamedTuple):
    """What is known of files, in listing order.

    table: of `probe.PROBE_COLUMNS` and UNIT_COLUMNS, N rows.
    thumbnails: uint8 [N, THUMBNAIL_BYTES], zeros for none; None where pictures are not compared.
    new: how many of them are not known from earlier.
    """

    table: "pa.Table"
    thumbnails: np.ndarray | None
    new: int


def inspect_files(context: StageContext, crawl: "Crawl") -> InspectedFiles:
    """Looks into all listed files.

    Raises:
      RunError: the disk or network fails, or an image does not fit into memory.
    """
    import pyarrow as pa

    paths = crawl.rows["path"]
    total = -(-len(paths) // FILES_PER_UNIT)
    units, thumbnails = UnitLog(context.out / UNITS, total), None
    if context.config.ingest.copy_similarity is not None:
        thumbnails = open_column(context.out / THUMBNAILS, (len(paths), THUMBNAIL_BYTES), "uint8")
        units = UnitLog(context.out / UNITS, total, thumbnails)
    note_how(context)
    pending = units.pending()
    with CapturedLibraryOutput() as printed, progress(None, "ingest", len(paths), "files") as bar:
        bar.update((total - len(pending)) * FILES_PER_UNIT if pending else len(paths))
        inspector = _UnitInspector(context, crawl, printed, bar.update)
        for unit in pending:
            found = inspector.inspect(unit)
            if thumbnails is not None:
                first = unit * FILES_PER_UNIT
                thumbnails[first : first + len(found.table)] = found.thumbnails
            write_table(_part(units, unit), columns_of(found.table), _COLUMNS)
            units.complete(unit, {"new": found.new})
    table = pa.concat_tables([read_table(_part(units, unit)) for unit in range(total)])
    return InspectedFiles(table, thumbnails, sum(unit["new"] for unit in units.metadata()))


def _part(units: UnitLog, unit: int) -> pathlib.Path:
    return units.directory / f"part-{unit:06d}.parquet"


class _UnitInspector:
    """Looks into a unit of files at a time."""

    def __init__(
        self, context: StageContext, crawl: "Crawl", printed: CapturedLibraryOutput,
        report: Callable[[], object],
    ) -> None:  # fmt: skip
        settings = context.config.ingest
        self._context, self._crawl, self._report = context, crawl, report
        cores = context.config.runtime.workers or os.cpu_count() or 1
        self._workers = cores * _THREADS_PER_CORE
        self._known, self._earlier_ahead = open_known_files(context)
        self._thumbnails = settings.copy_similarity is not None
        self._inspector = Inspector(
            open_packer(context.config, printed.size), decoders=cores, max_bytes=settings.max_bytes,
            max_pixels=settings.max_pixels, min_side_px=settings.min_side_px, thumbnails=self._thumbnails,
            find=self._known.find_content,
        )  # fmt: skip
        self._ahead: RecordsAhead | None = RecordsAhead(context.out / AHEAD, packed_with(context.config))

    def inspect(self, unit: int) -> InspectedFiles:
        """Looks into the files of a unit, and keeps their records.

        Raises:
          RunError: see `inspect_files`.
        """
        first = unit * FILES_PER_UNIT
        names = self._crawl.rows["path"][first : first + FILES_PER_UNIT].to_pylist()
        paths = [os.path.join(self._crawl.root, name) for name in names]
        try:
            # Before the files are read, so that one that changes meanwhile has another key next time.
            identities = list(map_in_threads(identify_file, paths, self._workers, at_once=64))
            keys = keys_of_files(names, identities)
            known = np.full(len(paths), -1) if self._context.reread else self._known.find_files(keys)
            unknown = np.flatnonzero(known < 0)
            found = self._inspector.inspect([paths[row] for row in unknown], self._workers, self._report)
        except OSError as error:
            raise environment_failure(error) from error
        for _ in range(len(paths) - len(unknown)):
            self._report()
        known[unknown] = [result.known for result in found]
        new = {int(row): result for row, result in zip(unknown, found, strict=True) if result.known < 0}
        table = self._table(first, keys, known, new)
        self._keep_records(unit, table["content_hash"].to_pylist(), new)
        return InspectedFiles(table, self._thumbnails_of(known, new), len(new))

    def _table(
        self, first: int, keys: np.ndarray, known: np.ndarray, new: Mapping[int, Inspection]
    ) -> "pa.Table":
        """The rows of a unit in listing order."""
        import pyarrow as pa

        probes = [result.probe for result in new.values() if result.probe is not None]
        columns = zip(*((probe.status or "", *probe[1:]) for probe in probes), strict=True)
        arrays = [pa.array(column, arrow_type(PROBE_COLUMNS[name]))
                  for name, column in zip(PROBE_COLUMNS, columns, strict=True)] if probes else []  # fmt: skip
        old = np.flatnonzero(known >= 0)
        tables = [self._known.table.take(known[old])] if len(old) else []
        tables += [pa.table(dict(zip(PROBE_COLUMNS, arrays, strict=True)))] if probes else []
        table = pa.concat_tables(tables).take(np.argsort(np.concatenate([old, [*new]]).astype(np.int64)))
        keys = np.where(np.array(table["content_hash"].to_pylist(), object)[:, None] == "", 0, keys)
        place = np.arange(first, first + len(table))
        for name, column in zip(UNIT_COLUMNS, (place, keys[:, 0], keys[:, 1]), strict=True):
            table = table.append_column(name, pa.array(column, arrow_type(UNIT_COLUMNS[name])))
        return table

    def _thumbnails_of(self, known: np.ndarray, new: Mapping[int, Inspection]) -> np.ndarray | None:
        if not self._thumbnails:
            return None
        found = np.zeros((len(known), THUMBNAIL_BYTES), np.uint8)
        old = known >= 0
        found[old] = self._known.thumbnails_of(known[old])
        for row, result in new.items():
            if result.packed is not None and result.packed.thumbnail is not None:
                found[row] = result.packed.thumbnail
        return found

    def _keep_records(self, unit: int, contents: Sequence[str], new: Mapping[int, Inspection]) -> None:
        """Keeps the records of new files, and those that an earlier run kept and pack has not taken yet."""
        if self._ahead is None:
            return
        packed = [(contents[row], found) for row, found in new.items() if found.record_key]
        records = {content: found.packed.record for content, found in packed if found.packed}
        record_keys = keys_of_hex(found.record_key for _, found in packed)
        keys = {content: key for (content, _), key in zip(packed, record_keys, strict=True)}
        for earlier in self._earlier_ahead:
            left = [content for content in dict.fromkeys(contents) if content and content not in records]
            found = earlier.find(keys_of_hex(left))
            wanted = [content for content, row in zip(left, found, strict=True) if row >= 0]
            found = found[found >= 0]
            for content, record, key in zip(wanted, earlier.read(found), earlier.keys[found], strict=True):
                if record:
                    records[content], keys[content] = record, key
        if records and not self._has_room(unit, list(records.values())):
            logging.info("ingest: the disk has no room to keep what is decoded; pack will decode it again.")
            self._ahead = None
            return
        record_keys = np.array([keys[content] for content in records], np.uint64).reshape(-1, 2)
        self._ahead.write(unit, keys_of_hex(records), list(records.values()), record_keys)

    def _has_room(self, unit: int, records: Sequence[bytes]) -> bool:
        """Whether the disk holds records of all files left, and then those of all files once more."""
        files = len(self._crawl.rows)
        mean = sum(map(len, records)) / len(records)
        needed = mean * (2 * files - unit * FILES_PER_UNIT)
        return shutil.disk_usage(self._context.out).free > needed + SPARE_BYTES
