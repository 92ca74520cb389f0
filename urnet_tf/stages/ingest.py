"""Ingest: lists a crawl, looks into every file once, finds copies, settles splits and what is left out.

Reads: the folder, list or WebVision tree at `ingest.path`, judgements, and what it has found out about files
before. Writes: `candidates.parquet`, `quarantine.parquet`, `duplicates.parquet`, `classes.json`, and with
judgements `judged.parquet`; for the next time `files.parquet` and `thumbnails.npy`; and, ahead, the records
that the stage pack will take.
"""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from urnet_tf import schema
from urnet_tf.config import Config, IngestConfig
from urnet_tf.errors import RunError, UsageError, name_settings, settings_named
from urnet_tf.images.thumbnails import THUMBNAIL_BYTES
from urnet_tf.schema import (
    DUPLICATE_COLUMNS,
    DUPLICATE_KINDS,
    JUDGED,
    QUARANTINE_COLUMNS,
    TEST,
    TRAIN,
    VAL,
)
from urnet_tf.stages.judgements import fingerprint_judgements, obey_judgements
from urnet_tf.stages.known_files import FILE_COLUMNS, FILES, UNITS
from urnet_tf.stages.presence import check_folders
from urnet_tf.stages.settings import decoding_seconds, keys_of, packed_bytes
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext
from urnet_tf.store import Workdir, columns_of, hash_file, read_table, write_json, write_table
from urnet_tf.store.bucket_trees import address_of, fetch_tree, place_of
from urnet_tf.store.progress import progress
from urnet_tf.text_rules import show_path

if TYPE_CHECKING:
    import pyarrow as pa

    from urnet_tf.crawl.instance_table import InstanceTable
    from urnet_tf.crawl.list_tables import ListOptions
    from urnet_tf.crawl.listing import Reading
    from urnet_tf.crawl.table import Crawl

_SECONDS_PER_FILE = 1.5e-4  # measured: listing, looking up, and tables
# Measured, of one core: 0.1 ms of 1,000 pictures, 0.5 of 17,000; the time of more grows as N^1.5.
_SECONDS_TO_COMPARE, _COMPARED_EVENLY = 4e-4, 17_000
_BYTES_PER_ROW = 250  # of all tables
_THREADS_PER_CORE = 4  # threads mostly wait for the disk
_MISSING_TO_STOP, _MISSING_TO_WARN = 0.9, 0.1  # parts of the listed files


def run(context: StageContext) -> dict:
    """Fills the stage's directory and returns the metadata of the crawl."""
    import pyarrow as pa
    from absl import logging

    from urnet_tf.crawl.instance_table import CANDIDATE_COLUMNS, MIN_TRAIN_IMAGES, check_classes
    from urnet_tf.crawl.table import cut_ranks
    from urnet_tf.stages.copies import tell_copies

    settings, out = context.config.ingest, context.out
    crawl = read_crawl(context.config)
    for note in crawl.notes:
        logging.warning("ingest: %s.", note)
    if settings.max_rank:
        with settings_named(keys_of(context.config, "ingest")):
            crawl = cut_ranks(crawl, settings.max_rank, settings.max_rank_per)
    if not len(crawl.rows):
        raise _no_rows(settings.path, crawl)
    if not context.named:
        check_folders(context.workdir, crawl.root)
    probes, not_compared = _look_into_files(context, crawl)
    crawl, probes, judged = obey_judgements(context, crawl, probes)
    crawl, probes, tables, enough = _without_small_classes(settings, crawl, probes)
    quarantine = pa.concat_tables([crawl.rejected, tables.quarantine])
    write_table(out / "quarantine.parquet", columns_of(quarantine), QUARANTINE_COLUMNS)
    minimum = MIN_TRAIN_IMAGES if enough else settings.min_class_images
    check_classes(tables.candidates, quarantine, crawl.classes, minimum)
    write_table(out / "candidates.parquet", columns_of(tables.candidates), CANDIDATE_COLUMNS)
    write_table(out / "duplicates.parquet", columns_of(tables.duplicates), DUPLICATE_COLUMNS)
    write_json(out / "classes.json", crawl.classes)
    root = address_of(crawl.root, settings.path)
    metadata = _metadata(crawl, tables, quarantine, probes, root) | {"not_compared": not_compared} | judged
    logging.info(
        "ingest: %d images of %d classes (%s), %d rows left out%s.",
        metadata["images"], metadata["num_classes"], schema.tell_splits(metadata),
        sum(metadata["quarantined"].values()),
        "".join(f", {count} {status}" for status, count in metadata["quarantined"].items()),
    )  # fmt: skip
    tell_copies(tables.duplicates, not_compared)
    return metadata


def _look_into_files(context: StageContext, crawl: "Crawl") -> tuple["pa.Table", int]:
    """What is known of all files, with the picture that each shows, and how many could not be compared."""
    import pyarrow.compute as pc
    from absl import logging

    from urnet_tf.images.probe import describe_guesses
    from urnet_tf.stages.copies import with_pictures
    from urnet_tf.stages.crawl_files import inspect_files

    files = inspect_files(context, crawl)
    _check_missing(context, crawl, files.table)
    for note in describe_guesses(files.table):
        logging.warning("ingest: %s.", note)
    if known := len(files.table) - files.new:
        verb = "is" if files.new == 1 else "are"
        logging.info("ingest: %d files are known from before, %d %s new.", known, files.new, verb)
    probes, not_compared = with_pictures(context, files)
    write_table(context.out / FILES, columns_of(probes) | {"path": crawl.rows["path"]}, FILE_COLUMNS)
    # A file that is not used has no content here.
    hashes = pc.if_else(pc.equal(probes["status"], ""), probes["content_hash"], "")
    place = probes.schema.get_field_index("content_hash")
    return probes.set_column(place, "content_hash", hashes), not_compared


def _without_small_classes(
    settings: IngestConfig, crawl: "Crawl", probes: "pa.Table"
) -> tuple["Crawl", "pa.Table", "InstanceTable", bool]:
    """The listing, its probes and tables without small classes; and whether two classes or more are left."""
    from absl import logging

    from urnet_tf.crawl.class_choice import keep_large_classes, named_counts
    from urnet_tf.crawl.instance_table import build_instance_table

    build = functools.partial(
        build_instance_table, seed=settings.split_seed, val_fraction=settings.val_fraction,
        test_fraction=settings.test_fraction,
    )  # fmt: skip
    crawl, probes, tables, dropped = keep_large_classes(crawl, probes, build, settings.min_class_images)
    if dropped:
        logging.warning(
            "ingest: %d classes with fewer than %d usable training images are left out "
            "(ingest.min_class_images): %s.", len(dropped), settings.min_class_images, named_counts(dropped),
        )  # fmt: skip
    return crawl, probes, tables, dropped is not None


def read_crawl(config: Config, *, texts: bool = True) -> "Crawl":
    """Lists the crawl that `config.ingest` points at; opens no image.

    Args:
      texts: whether page texts and ranks are wanted where it takes long to read them.

    Raises:
      UsageError: no path is set, nothing is there, or it cannot be understood.
    """
    from urnet_tf.crawl import listing

    keys = keys_of(config, "ingest")
    with settings_named(keys):
        crawl = listing.list_crawl(*_find(config.ingest), _reading(config.ingest), texts=texts)
    return dataclasses.replace(crawl, notes=tuple(name_settings(note, keys) for note in crawl.notes))


def estimate(config: Config, plan: PlanContext) -> Estimate:
    """Listing all rows, decoding those that are new, comparing all with each other."""
    rows = plan.images
    if rows is None:
        return Estimate()
    cores = min(plan.cores, config.runtime.workers or plan.cores)
    seconds = 1.0 + rows * _SECONDS_PER_FILE + plan.new * decoding_seconds(plan.bytes_per_image) / cores
    record = packed_bytes(config, plan)
    disk = rows * _BYTES_PER_ROW + plan.new * record * plan.keeps_ahead(record)
    if config.ingest.copy_similarity is not None:
        seconds += rows * _SECONDS_TO_COMPARE * max(1.0, rows / _COMPARED_EVENLY) ** 0.5
        disk += rows * THUMBNAIL_BYTES
    note = f"{plan.new:,} to decode" if plan.new < rows else ""
    return Estimate(rows, seconds, int(disk), 200_000_000 + rows * 1000, note)


def inputs(config: Config) -> dict:
    """Fingerprints of names, sizes and times of the images, and of the contents of list and info files."""
    from urnet_tf.crawl import readers

    settings = config.ingest
    options = _reading(settings).list_options
    with settings_named(keys_of(config, "ingest")):
        found = _fingerprint_input("the crawl", *_find(settings), options, settings.sources)
    for split, path in ((VAL, settings.val_path), (TEST, settings.test_path)):
        if path is not None:
            options = dataclasses.replace(options, image_root=None)
            found |= _fingerprint_input(f"ingest.{split}_path", path, readers.detect_kind(path), options)
    return found


def _fingerprint_input(
    name: str, path: str, kind: str, options: "ListOptions", sources: Sequence[str] | None = None
) -> dict[str, Any]:
    from urnet_tf.crawl import list_reader, readers, webvision

    texts = {}
    if kind == readers.LIST:
        classes = os.path.join(os.path.dirname(path), list_reader.CLASSES_FILE)
        texts = {f"the list of {name}": path, f"the class names of {name}": classes}
    elif kind == readers.WEBVISION:
        texts = {f"info/{os.path.basename(file)} of {name}": file for file in webvision.info_files(path)}
    found = {key: _file_hash(file) for key, file in texts.items()}
    found[f"the files of {name}"] = readers.fingerprint_files(path, kind, options, sources)
    return found


def _file_hash(path: str) -> str | None:
    try:
        return hash_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"Cannot read {show_path(path)}: {error.strerror}.") from None


def rescan(config: Config, workdir: Workdir) -> str | None:
    """Hashes all images again: a clause about those that changed without another size or time, or None."""
    from urnet_tf.images.probe import environment_failure, hash_image

    table = read_table(workdir.checked("ingest", "candidates.parquet"), ["path", "content_hash"])
    root, changed = place_of(workdir.completed("ingest")["metadata"]["root"]), []
    listed, max_bytes = table["path"].to_pylist(), config.ingest.max_bytes
    workers = (config.runtime.workers or os.cpu_count() or 1) * _THREADS_PER_CORE
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        hashes = pool.map(lambda path: hash_image(os.path.join(root, path), max_bytes), listed)
        found = progress(hashes, "rescan", total=len(table), unit="files")
        try:
            for path, before, now in zip(listed, table["content_hash"].to_pylist(), found, strict=True):
                changed += [path] if before != now else []
        except OSError as error:
            raise environment_failure(error) from error
    if not changed:
        return None
    return f"the contents of {len(changed):,} images changed ({changed[0]}, for one)"


def _reading(settings: IngestConfig) -> "Reading":
    """How the crawl is to be read."""
    from urnet_tf.crawl.listing import Reading

    return Reading(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Reading)})


def _find(settings: IngestConfig) -> tuple[str, str]:
    """Where the images are, and of what kind it is."""
    from urnet_tf.crawl import readers

    if settings.path is None:
        raise UsageError("Expected --data CRAWL (or ingest.path in the configuration): where the images are.")
    path = fetch_tree(settings.path)
    found = readers.detect_kind(path)
    kind = found if settings.kind == "auto" else settings.kind
    rows = (readers.LIST, readers.DATASET)
    if kind != found and (kind in rows or found in rows) and not _may_be(kind, path):
        raise UsageError(f"Expected a {kind} at ingest.path; {show_path(settings.path)} is a {found}.")
    return path, kind


def _may_be(kind: str, path: str) -> bool:
    """Whether a dataset of another tool is to be read as class folders or as a list, as the user says."""
    return (kind == "folder" and os.path.isdir(path)) or (kind == "list" and path.endswith(".parquet"))


def _no_rows(path: str | None, crawl: "Crawl") -> UsageError:
    """The end of a listing of which nothing can be used."""
    count = len(crawl.rejected)
    cause = (
        f"; {count} rows were set aside, the first as: {crawl.rejected['reason'][0].as_py()}" if count else ""
    )
    return UsageError(f"Expected images at {path}; none of the rows there can be used{cause.rstrip('.')}.")


def _check_missing(context: StageContext, crawl: "Crawl", probes: "pa.Table") -> None:
    """Tells of many missing files, and stops where nearly all are: the disk that holds them is not there.

    What is missing is told by three examples, the folder that was searched, the setting that would find them
    where there is one, and the table that lists all.
    """
    import numpy as np
    import pyarrow as pa
    from absl import logging

    from urnet_tf.crawl.list_paths import suggest_root
    from urnet_tf.crawl.table import rejections

    rows = np.flatnonzero(probes["status"].to_numpy() == "missing")
    share = len(rows) / len(probes)
    if share < _MISSING_TO_WARN:
        return
    paths = [crawl.rows["path"][int(row)].as_py() for row in rows[:3]]
    examples = ", ".join(show_path(path) for path in paths)
    what = (
        f"{len(rows)} of the {len(probes)} listed files are not there, for example {examples} in "
        f"{show_path(crawl.root)}"
    )
    if share < _MISSING_TO_STOP:
        logging.warning(
            "ingest: %s. If a disk or share is not mounted, mount it and run with --from ingest; else they "
            "are left out.", what
        )  # fmt: skip
        return
    context.remove(UNITS)  # nothing of it is worth going on with
    missing = rejections(
        crawl.rows.take(rows),
        probes["status"].take(rows),
        probes["reason"].take(rows),
    )
    table = context.out / "quarantine.parquet"
    write_table(table, columns_of(pa.concat_tables([crawl.rejected, missing])), QUARANTINE_COLUMNS)
    elsewhere = suggest_root(crawl.root, paths)
    if elsewhere is not None and _find(context.config.ingest)[1] == "list":
        raise RunError(
            f"{what}; files of these names are found with ingest.image_root={show_path(elsewhere)}: give "
            f"that. All missing rows are in {show_path(table)}."
        )
    raise RunError(
        f"{what}. If a disk or share is not mounted, mount it; if the images lie elsewhere, give that "
        "folder (ingest.image_root for a list); if they are gone, remove their rows. Then run the same "
        f"command again. All missing rows are in {show_path(table)}."
    )


def _metadata(
    crawl: "Crawl", tables: "InstanceTable", quarantine: "pa.Table", probes: "pa.Table", root: str
) -> dict[str, Any]:
    import pyarrow.compute as pc

    usable = probes.filter(pc.equal(probes["status"], ""))

    def counts(column: Any) -> dict[str, int]:
        return {row["values"].as_py(): row["counts"].as_py() for row in pc.value_counts(column)}

    splits = counts(tables.candidates["split"])
    kinds = counts(tables.duplicates["kind"])
    statuses = counts(quarantine["status"])
    given = counts(crawl.rows["split"])
    held = {s: schema.GIVEN if s in given else schema.DRAWN for s in (VAL, TEST) if splits.get(s)}
    judged = {"judged_images": splits[JUDGED]} if JUDGED in splits else {}
    return {
        "held_labels": held | ({JUDGED: JUDGED} if judged else {}),
        "images": len(tables.candidates),
        "train_images": splits.get(TRAIN, 0),
        "val_images": splits.get(VAL, 0),
        "test_images": splits.get(TEST, 0),
        **judged,
        "num_classes": len(crawl.classes),
        "quarantined": dict(sorted(statuses.items(), key=lambda item: (-item[1], item[0]))),
        "root": root,
        "duplicates": {kind: kinds.get(kind, 0) for kind in DUPLICATE_KINDS},
        "bytes": pc.sum(usable["num_bytes"]).as_py() or 0,
    }


STAGE = Stage(
    name="ingest",
    needs=(),
    depends_on=("ingest",),
    run=run,
    estimate=estimate,
    starts_tensorflow=False,
    version=8,
    inputs=inputs,
    inputs_of_workdir=fingerprint_judgements,
    reads_ahead=("pack.short_side_px", "pack.jpeg_quality"),
    rescan=rescan,
)
