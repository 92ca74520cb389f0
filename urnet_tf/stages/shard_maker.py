"""Makes the shards of the stage pack: in its process, or in others that do shards for it.

A shard is made of nothing but the candidates, known records and settings: two makers write the same bytes.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import logging

from urnet_tf import store
from urnet_tf.config import Config
from urnet_tf.errors import RunError
from urnet_tf.export.quiet import CapturedLibraryOutput
from urnet_tf.images import image_store
from urnet_tf.images.headers import Refused
from urnet_tf.images.known_records import RECORD_KEYS_FILE, KnownRecords, open_ahead, reader_of
from urnet_tf.images.probe import content_hash, describe_refusal, map_in_threads, os_reason, read_file
from urnet_tf.stages.settings import open_packer, packed_with
from urnet_tf.stages.stage import StageContext
from urnet_tf.store.bucket_trees import place_of
from urnet_tf.store.lookup import keys_of, keys_of_hex
from urnet_tf.store.table_rows import TableRows

if TYPE_CHECKING:
    import pyarrow as pa


class Candidates(NamedTuple):
    """What ingest tells of the files, in final order."""

    root: str
    paths: "pa.ChunkedArray"
    hashes: "pa.ChunkedArray"  # as `probe` makes them; "" = not known
    contents: np.ndarray  # the same as keys, uint64 [N, 2]

    @classmethod
    def of(cls, root: str, table: "pa.Table") -> "Candidates":
        paths, hashes = table.column("path"), table.column("content_hash")
        return cls(root, paths, hashes, keys_of_hex(hashes))

    def part(self, start: int, stop: int) -> "Candidates":
        count = stop - start
        paths, hashes = self.paths.slice(start, count), self.hashes.slice(start, count)
        return self._replace(paths=paths, hashes=hashes, contents=self.contents[start:stop])

    def full_path(self, row: int) -> str:
        return os.path.join(self.root, self.paths[row].as_py())


class _Packed(NamedTuple):
    """What became of one file: a record, or a status and a reason, or why it is not as ingest read it."""

    record: bytes = b""
    status: str = ""
    reason: str = ""
    problem: str = ""
    suspect: bool = False  # decoded while a library printed warnings, of this image or another


def open_elsewhere(context: StageContext, total: int, cores: int) -> Callable[[int], dict[str, Any]]:
    """The work in a process of its own, which reads of the candidates what it needs."""
    printed = CapturedLibraryOutput().__enter__()  # for good
    rows = TableRows(context.path("ingest", "candidates.parquet"), ["path", "content_hash"])
    root = place_of(context.marker("ingest")["metadata"]["root"])

    def read(start: int, stop: int) -> Candidates:
        table = rows.read(start, stop)
        return Candidates.of(root, table)

    work = ShardMaker(context, open_known(context), printed, read, total).start(cores)

    def make(shard: int) -> dict[str, Any]:
        with store.unit_lock(context.part(f"shard-{shard:06d}.lock")):
            made = work(shard)
        if "problems" not in made:
            made["file"] = store.describe_part(image_store.shard_path(context.out, shard))
        return made

    return make


class ShardMaker:
    """Makes one shard after the other.

    Args:
      known: records that need not be made again.
      read: the candidates from a row to before another.
      total: how many candidates there are.
    """

    def __init__(
        self, context: StageContext, known: list[KnownRecords], printed: CapturedLibraryOutput,
        read: Callable[[int, int], Candidates], total: int,
    ) -> None:  # fmt: skip
        self._config, self._out, self._known, self._printed = context.config, context.out, known, printed
        self._read, self._total = read, total

    def start(
        self, workers: int, report: Callable[..., object] = lambda images=1: None
    ) -> Callable[[int], dict[str, Any]]:
        """What makes a shard in so many threads and tells how many images are done."""
        return functools.partial(self._make, workers=workers, report=report)

    def _make(self, shard: int, *, workers: int, report: Callable[..., object]) -> dict[str, Any]:
        """Writes a shard.

        Returns:
          `facts`, for the log; `keys`, of the records, uint64 [rows, 2]. Or, of a shard that was not written,
          `problems`: row → why its file is not as ingest read it.
        """
        size = self._config.pack.images_per_shard
        first, stop = shard * size, min((shard + 1) * size, self._total)
        files = self._read(first, stop)
        keys = np.zeros((stop - first, 2), np.uint64)
        records = _taken_over(self._known, files.contents, keys)
        report(len(records))
        left = [place for place in range(stop - first) if place not in records]
        packed = _FilePacker(files, self._config, self._printed).pack_all(left, workers, report)
        if problems := {first + place: p.problem for place, p in packed.items() if p.problem}:
            return {"problems": problems}
        failures = [[first + place, p.status, p.reason] for place, p in packed.items() if p.status]
        new = {place: p.record for place, p in packed.items() if not p.status}
        keys[list(new)] = keys_of(list(new.values()))
        records |= new
        image_store.write_shard(self._out, shard, [records[place] for place in sorted(records)])
        facts = {
            "count": len(records), "bytes": sum(map(len, records.values())), "failures": failures,
            "decoded": len(packed),
        }  # fmt: skip
        return {"facts": facts, "keys": keys}


def open_known(context: StageContext) -> list[KnownRecords]:
    """Records that need not be made again: what ingest has packed ahead, and this stage before."""
    made_with = packed_with(context.config)
    ahead = open_ahead(context.workdir.path("ingest") / store.AHEAD, made_with)
    known = [ahead] if ahead is not None else []
    marker = context.earlier_marker()
    if context.named or marker is None or marker["metadata"].get("packed_with") != made_with:
        return known
    try:
        contents = store.read_table(context.earlier("instances.parquet"), ["content_hash"])["content_hash"]
        keys = np.asarray(store.read_array(context.earlier(RECORD_KEYS_FILE)))
        images = image_store.ImageStore(context.earlier(image_store.INDEX_FILE).parent)
    except store.DamagedResult as damage:
        logging.info("pack: what was packed before is not used, since %s.", damage.problem)
        return known
    return [*known, KnownRecords(reader_of(images), keys_of_hex(contents), keys)]


def _taken_over(known: list[KnownRecords], contents: np.ndarray, keys: np.ndarray) -> dict[int, bytes]:
    """Known records of files by their place among `contents`.

    Args:
      contents: uint64 [n, 2], keys of the files.
      keys: uint64 [n, 2], filled with the keys of the records that are found.
    """
    found: dict[int, bytes] = {}
    for records in known:
        rows = records.find(contents)
        places = [place for place in np.flatnonzero(rows >= 0).tolist() if place not in found]
        keys[places] = records.keys[rows[places]]
        some = zip(places, records.read(rows[places]), strict=True)
        found |= {place: record for place, record in some if record is not None}
    return found


class _FilePacker:
    """Packs files, in several threads at once."""

    def __init__(self, candidates: Candidates, config: Config, printed: CapturedLibraryOutput) -> None:
        self._candidates, self._max_bytes = candidates, config.ingest.max_bytes
        self._packer = open_packer(config, printed.size)

    def pack_all(self, rows: Sequence[int], workers: int, report: Callable[[], object]) -> dict[int, _Packed]:
        """Packs files; behind the first that cannot be read as ingest read it none is packed."""
        found: dict[int, _Packed] = {}
        with contextlib.closing(map_in_threads(self._pack, rows, workers)) as results:
            for row, packed in zip(rows, results, strict=True):
                found[row] = packed
                if packed.problem:
                    break
                report()
        # Here all threads are at rest, so that what is printed belongs to one image.
        return {row: self._pack(row, alone=True) if p.suspect else p for row, p in found.items()}

    def _pack(self, row: int, alone: bool = False) -> _Packed:
        """Reads and packs a file."""
        path = self._candidates.full_path(row)
        try:
            data = read_file(path, self._max_bytes)
        except Refused as refused:
            return _Packed(problem=refused.reason)
        except OSError as error:
            return _Packed(problem=os_reason(error))
        known = self._candidates.hashes[row].as_py()
        if known and known != content_hash(data):
            return _Packed(problem="the file holds other bytes now")
        try:
            packed = self._packer.pack_alone(data) if alone else self._packer.pack(data)
        except MemoryError as error:
            raise RunError(f"pack: {path} cannot be packed: it does not fit into memory.") from error
        if packed.refused is None:
            return _Packed(packed.record, suspect=packed.suspect)
        return _Packed(status=packed.refused.status, reason=describe_refusal(packed.refused))
