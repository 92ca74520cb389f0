"""Looks into the files of a crawl, unit by unit: a part of the stage ingest.

What earlier runs have found out is taken over; see `known_files`. Everything else is read and decoded once:
for its status, for its thumbnail, and for the record that the stage pack will want, which is kept ahead as
long as the disk has room for it twice. A killed run takes up behind the last finished unit.
"""

import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import logging

from urnet_tf.errors import settings_named
from urnet_tf.executors import Job
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
from urnet_tf.stages.settings import keys_of, open_packer, packed_with
from urnet_tf.stages.stage import SPARE_BYTES, StageContext
from urnet_tf.store import (
    AHEAD,
    UnitLog,
    arrow_type,
    check_part,
    columns_of,
    describe_part,
    open_column,
    read_table,
    remove,
    unit_lock,
    write_array,
    write_table,
)
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
    executor, pending = context.open_executor(), units.pending()
    with (
        settings_named(keys_of(context.config, "runtime")),
        CapturedLibraryOutput() as printed,
        progress(None, "ingest", len(paths), "files") as bar,
    ):
        bar.update((total - len(pending)) * FILES_PER_UNIT if pending else len(paths))
        firsts = ((unit, unit * FILES_PER_UNIT) for unit in pending)
        wanted = (_Unit(unit, at, paths[at : at + FILES_PER_UNIT].to_pylist()) for unit, at in firsts)
        open_inspector = functools.partial(_UnitInspector, context, crawl.root, len(paths))
        open_work = (
            functools.partial(_open_elsewhere, open_inspector)
            if executor.elsewhere
            else lambda cores: open_inspector(printed, cores, bar.update).inspect
        )
        job = Job(open_work, "looks into files", shared=(context.out, crawl.root))
        for unit, found in executor.run(job, wanted):
            if executor.elsewhere:
                new, small = _check_parts(context, unit, found)
                bar.update(len(unit.names))
            else:
                new, small = found.new, found.thumbnails
                write_table(_part(context, unit.number), columns_of(found.table), _COLUMNS)
            if thumbnails is not None:
                thumbnails[unit.first : unit.first + len(unit.names)] = small
            units.complete(unit.number, {"new": new})
            if executor.elsewhere:
                remove(_thumbnails_part(context, unit.number), context.out)
    table = pa.concat_tables([read_table(_part(context, unit)) for unit in range(total)])
    return InspectedFiles(table, thumbnails, sum(unit["new"] for unit in units.metadata()))


class _Unit(NamedTuple):
    """Files that are looked into together."""

    number: int
    first: int  # place in the listing
    names: list[str]


def _part(context: StageContext, unit: int) -> pathlib.Path:
    return context.out / UNITS / f"part-{unit:06d}.parquet"


def _thumbnails_part(context: StageContext, unit: int) -> pathlib.Path:
    return context.part(f"thumbnails-{unit:06d}.npy")


def _open_elsewhere(
    open_inspector: Callable[..., "_UnitInspector"], cores: int
) -> Callable[[_Unit], dict[str, Any]]:
    """The work in a process of its own: unit → how many files are new, and what its parts are like."""
    printed = CapturedLibraryOutput().__enter__()  # for good
    inspector = open_inspector(printed, cores)
    context = inspector.context

    def inspect(unit: _Unit) -> dict[str, Any]:
        table, thumbnails = _part(context, unit.number), _thumbnails_part(context, unit.number)
        with unit_lock(context.part(f"files-{unit.number:06d}.lock")):
            found = inspector.inspect(unit)
            write_table(table, columns_of(found.table), _COLUMNS)
            facts: dict[str, Any] = {"new": found.new, "table": describe_part(table)}
            if found.thumbnails is not None:
                write_array(thumbnails, found.thumbnails)
                facts["thumbnails"] = describe_part(thumbnails)
        return facts

    return inspect


def _check_parts(
    context: StageContext, unit: _Unit, facts: Mapping[str, Any]
) -> tuple[int, np.ndarray | None]:
    """How many files of a unit are new, and its thumbnails."""
    check_part(_part(context, unit.number), facts["table"])
    if "thumbnails" not in facts:
        return facts["new"], None
    part = _thumbnails_part(context, unit.number)
    check_part(part, facts["thumbnails"])
    return facts["new"], np.load(part)


class _UnitInspector:
    """Looks into a unit of files at a time.

    Args:
      root: where the paths of the files start.
      total: how many files there are in all.
      printed: what libraries print.
      cores: that may be busy.
      report: is called when a file is done.
    """

    def __init__(
        self, context: StageContext, root: str, total: int, printed: CapturedLibraryOutput, cores: int,
        report: Callable[[], object] = lambda: None,
    ) -> None:  # fmt: skip
        settings = context.config.ingest
        self.context, self._root, self._total, self._report = context, root, total, report
        self._workers = cores * _THREADS_PER_CORE
        self._known, self._earlier_ahead = open_known_files(context)
        self._thumbnails = settings.copy_similarity is not None
        self._inspector = Inspector(
            open_packer(context.config, printed.size), decoders=cores, max_bytes=settings.max_bytes,
            max_pixels=settings.max_pixels, min_side_px=settings.min_side_px, thumbnails=self._thumbnails,
            find=self._known.find_content,
        )  # fmt: skip
        self._ahead: RecordsAhead | None = RecordsAhead(context.out / AHEAD, packed_with(context.config))

    def inspect(self, unit: _Unit) -> InspectedFiles:
        """Looks into the files of a unit, and keeps their records.

        Raises:
          RunError: see `inspect_files`.
        """
        names = unit.names
        paths = [os.path.join(self._root, name) for name in names]
        try:
            # Before the files are read, so that one that changes meanwhile has another key next time.
            identities = list(map_in_threads(identify_file, paths, self._workers, at_once=64))
            keys = keys_of_files(names, identities)
            known = np.full(len(paths), -1) if self.context.reread else self._known.find_files(keys)
            unknown = np.flatnonzero(known < 0)
            found = self._inspector.inspect([paths[row] for row in unknown], self._workers, self._report)
        except OSError as error:
            raise environment_failure(error) from error
        for _ in range(len(paths) - len(unknown)):
            self._report()
        known[unknown] = [result.known for result in found]
        new = {int(row): result for row, result in zip(unknown, found, strict=True) if result.known < 0}
        table = self._table(unit.first, keys, known, new)
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

    def _keep_records(self, unit: _Unit, contents: Sequence[str], new: Mapping[int, Inspection]) -> None:
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
        self._ahead.write(unit.number, keys_of_hex(records), list(records.values()), record_keys)

    def _has_room(self, unit: _Unit, records: Sequence[bytes]) -> bool:
        """Whether the disk holds records of all files left, and then those of all files once more."""
        mean = sum(map(len, records)) / len(records)
        needed = mean * (2 * self._total - unit.first)
        return shutil.disk_usage(self.context.out).free > needed + SPARE_BYTES
