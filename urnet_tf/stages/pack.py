"""Stage pack: decodes every candidate once, reduces it, and stores it by its final id.

Reads ingest's tables and the images. Writes ArrayRecord shards, `instances.parquet` (final ids),
`quarantine.parquet` (ingest's rows and what could not be decoded) and `classes.json`. A shard is the
unit of resuming.
"""

import os
import re
import shutil

import numpy as np

from urnet_tf import schema, store
from urnet_tf.config import Config
from urnet_tf.data import image_store
from urnet_tf.errors import UsageError
from urnet_tf.progress import progress
from urnet_tf.stages.stage import Estimate, Facts, Stage, StageContext

_SMALLEST_CLASS = 2  # training images; below it neither folds nor bags make sense
_REASON_LENGTH = 160
# Measured, seconds of one core on a busy 2-core machine: 0.0009 for a 2.6 kB file of 64 px that is kept
# as it is, 0.007 for a 78 kB file of 500 x 375 px that is reduced to a short side of 256.
_SECONDS_PER_IMAGE, _SECONDS_PER_BYTE = 7e-4, 8e-8
_STATUS_OF_MESSAGE = (
    ("pixels", "too_many_pixels"),
    ("not read", "unsupported"),
    ("not PNG", "not_an_image"),
)


def run(context: StageContext) -> dict:
    """Packs all candidates; see the module."""
    config = context.config
    candidates = store.read_table(context.path("ingest", "candidates.parquet"))
    root = context.marker("ingest")["facts"]["root"]
    paths = [os.path.join(root, path) for path in candidates.column("path").to_pylist()]
    shards = -(-len(paths) // config.pack.images_per_shard)
    log = context.units("pack", shards)
    _pack_shards(context.out, paths, log, config)
    facts = log.facts()
    image_store.write_index(context.out, [shard["count"] for shard in facts])
    failures = [failure for shard in facts for failure in shard["failures"]]
    kept = np.ones(len(paths), bool)
    kept[[row for row, _, _ in failures]] = False
    instances = candidates.filter(kept)
    _write_quarantine(context, candidates, failures)
    shutil.copyfile(context.path("ingest", "classes.json"), context.out / "classes.json")
    counts = _check_classes(instances, context.out)
    columns = {name: instances.column(name) for name in schema.INSTANCE_COLUMNS if name != "instance_id"}
    columns["instance_id"] = np.arange(len(instances))
    store.write_table(context.out / "instances.parquet", columns, schema.INSTANCE_COLUMNS)
    return {
        "images": len(instances),
        **counts,
        "bytes": sum(shard["bytes"] for shard in facts),
        "decode_errors": len(failures),
    }


def estimate(config: Config, facts: Facts) -> Estimate:
    """Time and disk by the number of images and their mean size."""
    if facts.images is None:
        return Estimate(note="unknown before ingest")
    cores = min(facts.cores, config.runtime.workers or facts.cores)
    seconds = facts.images * (_SECONDS_PER_IMAGE + facts.bytes_per_image * _SECONDS_PER_BYTE) / cores
    # A photograph at quality 95 without chroma subsampling takes about 0.7 bytes a pixel.
    largest = 0.7 * config.pack.short_side_px**2 * 4 / 3
    return Estimate(
        rows=facts.images, seconds=seconds, disk_bytes=int(facts.images * min(facts.bytes_per_image, largest))
    )


def _pack_shards(out, paths, log, config):
    """Fills the shards that are not complete, in order, through one pipeline."""
    size = config.pack.images_per_shard
    pending = log.pending()
    rows = [row for shard in pending for row in range(shard * size, min((shard + 1) * size, len(paths)))]
    if not rows:
        return
    pack_image = _build_pack_image(config.pack, config.ingest.max_pixels)
    dataset = _dataset(paths, rows, pack_image, config)
    packed = iter(progress(dataset.as_numpy_iterator(), "pack", total=len(rows), unit="images"))
    ahead = next(packed, None)  # the pipeline drops failures: rows that are missing in it failed
    for shard in pending:
        end = min((shard + 1) * size, len(paths))
        records, failures = [], []
        for row in range(shard * size, end):
            if ahead is not None and ahead[0] == row:
                records.append(ahead[1])
                ahead = next(packed, None)
                continue
            record, failure = _second_try(paths[row], pack_image, config)
            if failure:
                failures.append([row, *failure])
            else:
                records.append(record)
        image_store.write_shard(out, shard, records)
        facts = {"count": len(records), "bytes": sum(map(len, records)), "failures": failures}
        log.complete(shard, facts)


def _dataset(paths, rows, pack_image, config):
    """Rows and packed bytes in order, less those that fail."""
    import tensorflow as tf

    rows = np.array(rows, np.int64)

    def read(index):
        row = rows[index]
        try:
            return row, *_read(paths[row], config.pack.short_side_px)
        except OSError:
            return row, b"", b""  # fails to decode; the second try says why

    def packed(index):
        row, data, plain = tf.numpy_function(read, [index], [tf.int64, tf.string, tf.string], stateful=False)
        return row, pack_image(tf.ensure_shape(data, []), tf.ensure_shape(plain, []))

    workers = config.runtime.workers or os.cpu_count()
    dataset = tf.data.Dataset.range(len(rows))
    dataset = dataset.map(packed, num_parallel_calls=workers, deterministic=True)
    return dataset.ignore_errors().prefetch(64)


def _read(path, short_side_px):
    """The bytes of a file, and what can be stored of it unchanged (or nothing)."""
    with open(path, "rb") as file:
        data = file.read()
    return data, image_store.plain_jpeg(data, short_side_px) or b""


def _build_pack_image(pack, max_pixels):
    """A graph function: (file, what of it can be stored unchanged or nothing) -> JPEG bytes."""
    import tensorflow as tf

    from urnet_tf.data import decode

    def pack_image(data, plain):
        keep = (tf.strings.length(plain) > 0) & (decode.exif_orientation(data) == 1)
        pixels = decode.decode_rgb(tf.where(keep, plain, data), max_pixels)
        with tf.control_dependencies([pixels]):  # kept bytes must be readable, too
            plain = tf.identity(plain)

        def encoded():
            small = decode.resize_short_side(pixels, pack.short_side_px)
            return tf.io.encode_jpeg(small, quality=pack.jpeg_quality, chroma_downsampling=False)

        return tf.cond(keep, lambda: plain, encoded)

    return pack_image


def _second_try(path, pack_image, config):
    """Packs one image eagerly, which tells why it fails: (record, None) or (None, (status, reason))."""
    import tensorflow as tf

    try:
        data, plain = _read(path, config.pack.short_side_px)
    except OSError as error:
        status = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        return None, (status, f"{error.strerror or 'the file cannot be read'}.")
    if not data:
        return None, ("empty", "The file has no bytes.")
    try:
        return pack_image(tf.constant(data), tf.constant(plain)).numpy(), None
    except tf.errors.OpError as error:
        reason = _sentence(error.message)
        status = next((status for text, status in _STATUS_OF_MESSAGE if text in reason), "decode_error")
        return None, (status, _sentence(f"{schema.STATUS[status]}: {reason}"))


def _sentence(message):
    """The first line of TensorFlow's message, without the names of its nodes."""
    line = message.strip().splitlines()[0] if message.strip() else "The image cannot be decoded."
    line = re.sub(r"\{\{.*?\}\}\s*|\s*\[Op:.*?\]", "", line).strip().rstrip(".")
    return (line if len(line) <= _REASON_LENGTH else line[: _REASON_LENGTH - 3] + "...") + "."


def _check_classes(instances, out):
    """Counts of the final table; a class that is too small ends the run."""
    classes = store.read_json(out / "classes.json")
    splits, labels = store.column(instances, "split"), store.column(instances, "label")
    of_class = np.bincount(labels[splits == schema.TRAIN], minlength=len(classes))
    small = np.flatnonzero(of_class < _SMALLEST_CLASS)
    if len(small):
        names = ", ".join(f"{classes[j]['name']} ({of_class[j]})" for j in small[:5])
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        raise UsageError(
            f"Expected at least {_SMALLEST_CLASS} usable training images in each class; received fewer "
            f"for {names}{more}; {out / 'quarantine.parquet'} says why; add images or drop the class."
        )
    counts = {f"{split}_images": int((splits == split).sum()) for split in schema.SPLITS}
    return {**counts, "num_classes": len(classes)}


def _write_quarantine(context, candidates, failures):
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
)
