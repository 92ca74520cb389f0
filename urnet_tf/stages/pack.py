"""Stage pack: stores every candidate, decoded once and reduced, by its final id.

Reads ingest's tables, and the records that ingest has made ahead or this stage before; of other images the
files, which it decodes. Writes ArrayRecord shards, `record_keys.npy` (what tells records apart, uint64
[images, 2]), `instances.parquet` (final ids), `quarantine.parquet` (ingest's rows and what could not be
packed) and `classes.json`. A shard is the unit of resuming.

Only what is read and cannot be decoded becomes a row of the quarantine. Files that ingest has read and
that cannot be read now, or that hold other bytes now, tell of a disk or a share and stop the stage.
"""

import collections
import functools
import os
import pathlib
import shutil
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from urnet_tf import schema, store
from urnet_tf.config import Config
from urnet_tf.errors import RunError, UsageError, settings_named
from urnet_tf.executors import Job
from urnet_tf.export.quiet import CapturedLibraryOutput
from urnet_tf.images import image_store
from urnet_tf.images.containers import find_container
from urnet_tf.images.known_records import RECORD_KEYS_FILE
from urnet_tf.images.probe import map_in_threads, os_reason
from urnet_tf.stages.settings import (
    decoding_seconds,
    keys_of as keys_of_settings,
    packed_bytes,
    packed_with,
)
from urnet_tf.stages.shard_maker import Candidates, ShardMaker, open_elsewhere, open_known
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext
from urnet_tf.store import UnitLog
from urnet_tf.store.bucket_trees import place_of
from urnet_tf.store.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa

_SMALLEST_CLASS = 2  # training images; below it neither folds nor bags make sense
_THREADS_FOR_OPENING = 16  # they wait for the disk
# Measured: a row of 430 bytes takes 830 to 1,080 of memory until it is written, 40 to 150 on the disk.
_TABLE_BYTES, _TABLE_DISK_BYTES, _PROCESS_BYTES = 1100, 150, 250 * 10**6
_SECONDS_PER_IMAGE, _SECONDS_PER_BYTE = 5e-5, 1e-8  # measured: to take a packed record over


def run(context: StageContext) -> dict:
    """Packs all candidates; see the module.

    Raises:
      RunError: files that ingest has read cannot be read now.
      UsageError: a class has too few images left.
    """
    config = context.config
    table = store.read_table(context.path("ingest", "candidates.parquet"))
    root = place_of(context.marker("ingest")["metadata"]["root"])
    candidates = Candidates.of(root, table)
    shards = -(-len(table) // config.pack.images_per_shard)
    log = context.units("pack", shards)
    keys = store.open_column(log.directory / RECORD_KEYS_FILE, (len(table), 2), np.uint64)
    _pack_shards(context, candidates, UnitLog(log.directory, shards, keys), keys)
    metadata = log.metadata()
    image_store.write_index(context.out, [shard["count"] for shard in metadata])
    failures = [failure for shard in metadata for failure in shard["failures"]]
    kept = np.ones(len(table), bool)
    kept[[row for row, _, _ in failures]] = False
    instances = table.filter(kept) if failures else table  # which would be another copy
    _write_quarantine(context, table, failures)
    shutil.copyfile(context.path("ingest", "classes.json"), context.out / "classes.json")
    store.write_array(context.out / RECORD_KEYS_FILE, keys[kept])
    counts = _count_images(instances)
    left_out = dict(collections.Counter(status for _, status, _ in failures).most_common())
    logging.info(
        "pack: %d images (%s), %d of them taken over as they were packed before, %d rows left out%s.",
        len(instances), schema.tell_splits(counts),
        len(table) - sum(shard["decoded"] for shard in metadata), len(failures),
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
        "packed_with": packed_with(config),
    }


def estimate(config: Config, plan: PlanContext) -> Estimate:
    """Time and disk by the number of images and their mean size."""
    if plan.images is None:
        return Estimate(note="unknown before ingest")
    cores = min(plan.cores, config.runtime.workers or plan.cores)
    size = packed_bytes(config, plan)
    decoded = 0 if plan.reuses else plan.images - plan.new  # what is new ingest has decoded
    seconds = plan.images * (_SECONDS_PER_IMAGE + size * _SECONDS_PER_BYTE)
    seconds += decoded * decoding_seconds(plan.bytes_per_image) / cores
    note = f"{decoded:,} to decode" if decoded else "taken over from ingest and earlier runs"
    disk = int(plan.images * (size + 16)) + plan.images * _TABLE_DISK_BYTES
    memory = _PROCESS_BYTES + int(config.pack.images_per_shard * size) + plan.images * _TABLE_BYTES
    return Estimate(plan.images, seconds, disk, memory, note)


def _pack_shards(context: StageContext, candidates: Candidates, log: "UnitLog", keys: np.ndarray) -> None:
    """Fills the shards that are not complete.

    Args:
      log: of the shards.
      keys: uint64 [rows, 2], filled with the key of each record.
    """
    executor, pending, size = context.open_executor(), log.pending(), context.config.pack.images_per_shard
    rows_of = {s: range(s * size, min((s + 1) * size, len(candidates.paths))) for s in pending}
    total = sum(map(len, rows_of.values()))
    with (
        settings_named(keys_of_settings(context.config, "runtime")),
        CapturedLibraryOutput() as printed,
        progress(None, "pack", total=total, unit="images") as bar,
    ):
        if executor.elsewhere:
            open_work = functools.partial(open_elsewhere, context, len(candidates.paths))
            shared: tuple[str | os.PathLike, ...] = (context.out, candidates.root)
        else:
            known = open_known(context) if pending else []
            maker = ShardMaker(context, known, printed, candidates.part, len(candidates.paths))
            open_work, shared = functools.partial(maker.start, report=bar.update), ()
        for shard, made in executor.run(Job(open_work, "packs images", shared=shared), pending):
            if "problems" in made:
                others = [row for rows in rows_of.values() for row in rows]
                raise _unreadable_now(candidates, others, made["problems"])
            if executor.elsewhere:
                store.check_part(image_store.shard_path(context.out, shard), made["file"])
                bar.update(len(rows_of[shard]))
            rows = rows_of.pop(shard)
            keys[rows.start : rows.stop] = made["keys"]
            log.complete(shard, made["facts"])


def _unreadable_now(candidates: Candidates, rows: list[int], problems: dict[int, str]) -> RunError:
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


def _count_images(instances: "pa.Table") -> dict[str, int]:
    counts = {
        f"{split}_images": int(store.is_equal(instances, "split", split).sum()) for split in schema.ALL_SPLITS
    }
    judged = counts.pop(f"{schema.JUDGED}_images")
    return counts | ({f"{schema.JUDGED}_images": judged} if judged else {})


def _check_classes(instances: "pa.Table", out: pathlib.Path) -> int:
    """How many classes there are; one that is too small ends the run."""
    classes = store.read_json(out / "classes.json")
    labels = store.column(instances, "label")[store.is_equal(instances, "split", schema.TRAIN)]
    of_class = np.bincount(labels, minlength=len(classes))
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
    import pyarrow as pa

    old = store.read_table(context.path("ingest", "quarantine.parquet"))
    rows = candidates.take(np.array([row for row, _, _ in failures], np.int64))
    new = {name: rows.column(name) for name in schema.QUARANTINE_COLUMNS if name in rows.column_names}
    for place, name in ((1, "status"), (2, "reason")):
        new[name] = pa.chunked_array([pa.array([failure[place] for failure in failures], pa.large_string())])
    columns = {
        name: pa.chunked_array([*old.column(name).chunks, *new[name].chunks], old.column(name).type)
        for name in schema.QUARANTINE_COLUMNS
    }
    store.write_table(context.out / "quarantine.parquet", columns, schema.QUARANTINE_COLUMNS)


STAGE = Stage(
    name="pack",
    needs=("ingest",),
    depends_on=("pack", "ingest.max_pixels"),
    run=run,
    estimate=estimate,
    starts_tensorflow=False,
    version=5,
    uses_up=("ingest",),
)
