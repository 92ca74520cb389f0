"""Stage pack: decodes every candidate once, reduces it, and stores it by its final id.

Reads ingest's tables and the images. Writes ArrayRecord shards, `instances.parquet` (final ids),
`quarantine.parquet` (ingest's rows and what could not be decoded) and `classes.json`. A shard is the
unit of resuming.

Only what is read and cannot be decoded becomes a row of the quarantine. Files that ingest has read and
that cannot be read now, or that hold other bytes now, tell of a disk or a share and stop the stage.
"""

import collections
import contextlib
import os
import pathlib
import shutil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import logging

from urnet_tf import schema, store
from urnet_tf.config import Config
from urnet_tf.errors import RunError, UsageError
from urnet_tf.export.quiet import CapturedLibraryOutput
from urnet_tf.images import image_store, picture
from urnet_tf.images.containers import find_container
from urnet_tf.images.headers import Refused
from urnet_tf.images.orientation import exif_orientation
from urnet_tf.images.probe import content_hash, map_in_threads, os_reason, read_file
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext
from urnet_tf.store.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa

    from urnet_tf.store.workdir import UnitLog

_SMALLEST_CLASS = 2  # training images; below it neither folds nor bags make sense
_REASON_LENGTH = 160
_THREADS_FOR_OPENING = 16  # they wait for the disk
# Measured, seconds of one core: 0.00024 for a 15 kB file of 240 px that is kept as it is, 0.0013 for one of
# 44 kB and 500 x 375 px, 0.005 for one of 450 kB and 1600 x 1200 px, both reduced to a short side of 256.
_SECONDS_PER_IMAGE, _SECONDS_PER_BYTE = 1e-4, 1.8e-8


class _Candidates(NamedTuple):
    """What ingest tells of the files, in final order."""

    root: str
    paths: list[str]
    hashes: list[str]  # as `probe` makes them; "" = not known

    def full_path(self, row: int) -> str:
        return os.path.join(self.root, self.paths[row])


class _Packed(NamedTuple):
    """What became of one file: a record, or a status and a reason, or why it is not as ingest read it."""

    record: bytes = b""
    status: str = ""
    reason: str = ""
    problem: str = ""
    suspect: bool = False  # decoded while a library printed warnings, of this image or another


def run(context: StageContext) -> dict:
    """Packs all candidates; see the module.

    Raises:
      RunError: files that ingest has read cannot be read now.
      UsageError: a class has too few images left.
    """
    config = context.config
    table = store.read_table(context.path("ingest", "candidates.parquet"))
    root = context.marker("ingest")["metadata"]["root"]
    candidates = _Candidates(root, *(table.column(name).to_pylist() for name in ("path", "content_hash")))
    shards = -(-len(table) // config.pack.images_per_shard)
    log = context.units("pack", shards)
    _pack_shards(context.out, candidates, log, config)
    metadata = log.metadata()
    image_store.write_index(context.out, [shard["count"] for shard in metadata])
    failures = [failure for shard in metadata for failure in shard["failures"]]
    kept = np.ones(len(table), bool)
    kept[[row for row, _, _ in failures]] = False
    instances = table.filter(kept)
    _write_quarantine(context, table, failures)
    shutil.copyfile(context.path("ingest", "classes.json"), context.out / "classes.json")
    counts = _count_images(instances)
    left_out = dict(collections.Counter(status for _, status, _ in failures).most_common())
    logging.info(
        "pack: %d images (%s), %d rows left out%s.",
        len(instances), schema.tell_splits(counts), len(failures),
        "".join(f", {count} {status}" for status, count in left_out.items()),
    )  # fmt: skip
    num_classes = _check_classes(instances, context.out)
    columns = {name: instances.column(name) for name in schema.INSTANCE_COLUMNS if name != "instance_id"}
    columns["instance_id"] = np.arange(len(instances))
    store.write_table(context.out / "instances.parquet", columns, schema.INSTANCE_COLUMNS)
    return {
        "images": len(instances),
        **counts,
        "num_classes": num_classes,
        "bytes": sum(shard["bytes"] for shard in metadata),
        "quarantined": left_out,
    }


def estimate(config: Config, plan: PlanContext) -> Estimate:
    """Time and disk by the number of images and their mean size."""
    if plan.images is None:
        return Estimate(note="unknown before ingest")
    cores = min(plan.cores, config.runtime.workers or plan.cores)
    seconds = plan.images * (_SECONDS_PER_IMAGE + plan.bytes_per_image * _SECONDS_PER_BYTE) / cores
    # A photograph at quality 95 without chroma subsampling takes about 0.7 bytes a pixel.
    largest = 0.7 * config.pack.short_side_px**2 * 4 / 3
    return Estimate(
        rows=plan.images, seconds=seconds, disk_bytes=int(plan.images * min(plan.bytes_per_image, largest))
    )


def _pack_shards(out: pathlib.Path, candidates: _Candidates, log: "UnitLog", config: Config) -> None:
    """Fills the shards that are not complete, in order."""
    size, pending = config.pack.images_per_shard, log.pending()
    rows_of = {s: range(s * size, min((s + 1) * size, len(candidates.paths))) for s in pending}
    workers = config.runtime.workers or os.cpu_count() or 1
    total = sum(map(len, rows_of.values()))
    with CapturedLibraryOutput() as printed, progress(None, "pack", total=total, unit="images") as bar:
        packer = _Packer(candidates, config, printed)
        for shard in pending:
            packed_rows: list[tuple[int, _Packed]] = []
            rows = rows_of[shard]
            with contextlib.closing(map_in_threads(packer.pack, rows, workers)) as results:
                for row, packed in zip(rows, results, strict=True):
                    packed_rows.append((row, packed))
                    if packed.problem:
                        break
                    bar.update()
            # Here all threads are at rest, so that what is printed belongs to one image.
            packed_rows = [(row, packer.pack_alone(row) if p.suspect else p) for row, p in packed_rows]
            if problems := {row: p.problem for row, p in packed_rows if p.problem}:
                left = [row for other in pending if other >= shard for row in rows_of[other]]
                raise _unreadable_now(candidates, left, problems)
            failures = [[row, p.status, p.reason] for row, p in packed_rows if p.status]
            records = [p.record for _, p in packed_rows if not p.status]
            image_store.write_shard(out, shard, records)
            metadata = {"count": len(records), "bytes": sum(map(len, records)), "failures": failures}
            log.complete(shard, metadata)


class _Packer:
    """Packs single files, in several threads at once."""

    def __init__(self, candidates: _Candidates, config: Config, printed: CapturedLibraryOutput) -> None:
        self._candidates, self._config, self._printed = candidates, config, printed

    def pack(self, row: int) -> _Packed:
        """Reads and packs a file."""
        before = self._printed.size()
        data, problem = self._read(row)
        if problem:
            return _Packed(problem=problem)
        packed = self._encoded(row, data)
        return packed._replace(suspect=bool(packed.record) and self._printed.size() > before)

    def pack_alone(self, row: int) -> _Packed:
        """Packs a file anew while no other is packed; Pillow decodes it if that makes a library print.

        Such a file is damaged. Pillow decides whether it is read, and it is not stored as it is: it would
        make libjpeg complain in every pass of every later stage.
        """
        before = self._printed.size()
        packed = self.pack(row)
        if packed.problem or self._printed.size() == before:
            return packed
        data, problem = self._read(row)
        return _Packed(problem=problem) if problem else self._encoded(row, data, damaged=True)

    def _read(self, row: int) -> tuple[bytes, str]:
        """The bytes of a file, and why they cannot be had."""
        try:
            return read_file(self._candidates.full_path(row), self._config.ingest.max_bytes), ""
        except Refused as refused:
            return b"", refused.reason
        except OSError as error:
            return b"", os_reason(error)

    def _encoded(self, row: int, data: bytes, damaged: bool = False) -> _Packed:
        pack, max_pixels = self._config.pack, self._config.ingest.max_pixels
        try:
            plain = None if damaged else image_store.plain_jpeg(data, pack.short_side_px)
            if plain and exif_orientation(data) == 1:
                picture.read_picture(plain, max_pixels)  # kept bytes must be readable, too
                return _Packed(plain)
            pixels = picture.read_picture(data, max_pixels, pack.short_side_px, by_pillow=damaged)
            return _Packed(picture.encode_jpeg(pixels, pack.jpeg_quality))
        except Refused as refused:
            known = self._candidates.hashes[row]
            if known and known != content_hash(data):
                return _Packed(problem="the file holds other bytes now")
            reason = _sentence(f"{schema.STATUS[refused.status]}: {_sentence(refused.reason)}")
            return _Packed(status=refused.status, reason=reason)
        except MemoryError as error:
            path = self._candidates.full_path(row)
            raise RunError(f"pack: {path} cannot be packed: it does not fit into memory.") from error


def _unreadable_now(candidates: _Candidates, rows: list[int], problems: dict[int, str]) -> RunError:
    """The end of the stage: counts the files of `rows` that cannot be opened, with those in `problems`."""

    def problem_of(row: int) -> str:
        path = candidates.full_path(row)
        try:
            inside = find_container(path)
            with open(path if inside is None else inside[0], "rb"):
                return ""
        except OSError as error:
            return os_reason(error)

    found = map_in_threads(problem_of, rows, _THREADS_FOR_OPENING, at_once=32)
    problems = {row: problem for row, problem in zip(rows, found, strict=True) if problem} | problems
    examples = ", ".join(f"{candidates.full_path(row)} ({problems[row]})" for row in sorted(problems)[:3])
    root = candidates.root
    where = "" if os.path.isdir(root) else f" The folder {root} is not there."
    return RunError(
        f"pack: {len(problems)} of the images that ingest has read cannot be read now, for example "
        f"{examples}.{where} If a disk or share is missing or fails, bring it back and run the same command "
        "again: what is packed stays. If files were removed or changed, run with --from ingest, which lists "
        "them anew."
    )


def _sentence(message: str) -> str:
    """The first line of a library's message, not too long."""
    lines = message.strip().splitlines()
    line = lines[0].strip().rstrip(".") if lines else "the image cannot be decoded"
    return (line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 3] + "...") + "."


def _count_images(instances: "pa.Table") -> dict[str, int]:
    splits = store.column(instances, "split")
    counts = {f"{split}_images": int((splits == split).sum()) for split in schema.SPLITS}
    judged = int((splits == schema.JUDGED).sum())
    return counts | ({f"{schema.JUDGED}_images": judged} if judged else {})


def _check_classes(instances: "pa.Table", out: pathlib.Path) -> int:
    """How many classes there are; one that is too small ends the run."""
    classes = store.read_json(out / "classes.json")
    splits, labels = store.column(instances, "split"), store.column(instances, "label")
    of_class = np.bincount(labels[splits == schema.TRAIN], minlength=len(classes))
    small = np.flatnonzero(of_class < _SMALLEST_CLASS)
    if len(small):
        names = ", ".join(f"{classes[j]['name']} ({of_class[j]})" for j in small[:5])
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        raise UsageError(
            f"Expected at least {_SMALLEST_CLASS} usable training images in each class; received fewer "
            f"for {names}{more}; {out / 'quarantine.parquet'} says why; add images, or leave the class out "
            "with ingest.exclude."
        )
    return len(classes)


def _write_quarantine(context: StageContext, candidates: "pa.Table", failures: list[list]) -> None:
    old = store.read_table(context.path("ingest", "quarantine.parquet"))
    rows = candidates.take(np.array([row for row, _, _ in failures], np.int64))
    columns = {}
    for name in schema.QUARANTINE_COLUMNS:
        if name in ("status", "reason"):
            new = [failure[1 if name == "status" else 2] for failure in failures]
        else:
            new = rows.column(name).to_pylist()
        columns[name] = old.column(name).to_pylist() + new
    store.write_table(context.out / "quarantine.parquet", columns, schema.QUARANTINE_COLUMNS)


STAGE = Stage(
    name="pack",
    needs=("ingest",),
    depends_on=("pack", "ingest.max_pixels"),
    run=run,
    estimate=estimate,
    version=5,
)
