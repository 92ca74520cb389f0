"""Files that occur more than once, and near copies: a part of the stage ingest."""

from typing import TYPE_CHECKING

from absl import logging

from urnet_tf.schema import NEAR
from urnet_tf.stages.crawl_files import InspectedFiles
from urnet_tf.stages.known_files import FILES, was_alike
from urnet_tf.stages.stage import StageContext
from urnet_tf.store import DamagedResult, read_table
from urnet_tf.store.lookup import RowsByKey, keys_of_hex
from urnet_tf.store.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa


def with_pictures(context: StageContext, files: InspectedFiles) -> tuple["pa.Table", int]:
    """What is known of files with the column `picture`, and how many different ones could not be compared.

    Groups depend on the set of contents alone, so where that is as it was before they are as they were.
    """
    import pyarrow.compute as pc

    from urnet_tf.crawl.near_copies import WINDOWS, name_pictures

    usable = pc.equal(files.table["status"], "")
    hashes = pc.if_else(usable, files.table["content_hash"], "")
    settings = context.config.ingest
    similarity = settings.copy_similarity
    if files.thumbnails is None or similarity is None:
        return files.table.append_column("picture", hashes), 0
    if (known := _known_pictures(context, hashes)) is not None:
        return files.table.append_column("picture", known[0].cast(hashes.type)), known[1]
    with progress(None, "compare", total=len(WINDOWS) * len(hashes), unit="windows") as bar:
        pictures, not_compared = name_pictures(
            hashes, files.thumbnails, similarity, settings.mirrored_copies, bar.update
        )
    return files.table.append_column("picture", pictures.cast(hashes.type)), not_compared


def _known_pictures(context: StageContext, hashes: "pa.ChunkedArray") -> "tuple[pa.ChunkedArray, int] | None":
    """The pictures of these contents, if the last complete run compared the very same ones; as above."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        path = context.earlier(FILES)
    except DamagedResult:
        return None
    marker = context.earlier_marker() or {}
    settings = context.config.ingest
    now = {f"ingest.{name}": getattr(settings, name) for name in ("copy_similarity", "mirrored_copies")}
    before = marker.get("settings", {})
    if not now.items() <= before.items() or not was_alike(path.parent, context.config):
        return None
    table = read_table(path, ["content_hash", "picture"])
    table = table.filter(pc.not_equal(table["picture"], ""))
    known, keys = RowsByKey(keys_of_hex(table["content_hash"])), keys_of_hex(hashes)
    rows, compared = known.find(keys), keys.any(axis=1)
    if (rows[compared] < 0).any() or len(RowsByKey(keys[compared])) != len(known):
        return None
    pictures = table["picture"].take(pa.array(rows, mask=~compared))
    return pc.fill_null(pictures, ""), int(marker["metadata"]["not_compared"])


def tell_copies(duplicates: "pa.Table", not_compared: int) -> None:
    """What the log says of files that occur more than once and of near copies."""
    import pyarrow.compute as pc

    is_near = pc.starts_with(duplicates["kind"], NEAR)
    equal, near = duplicates.filter(pc.invert(is_near)), duplicates.filter(is_near)
    if len(equal):
        several = _under_several_labels(equal)
        logging.info(
            "ingest: %d files are equal to others, byte by byte: %s. %s",
            len(equal), _pictures(equal, "content_hash"),
            f"{_count_distinct(several, 'content_hash')} of these, with {len(several)} files, are under "
            "several labels: at least one label of each is wrong. duplicates.parquet lists all."
            if len(several) else "None of these is under several labels.",
        )  # fmt: skip
    if len(near):
        several = _under_several_labels(near)
        logging.info(
            "ingest: %d images are near copies, of %s. %s",
            len(near), _pictures(near, "picture"),
            f"{_count_distinct(several, 'picture')} of these, with {len(several)} images, are under several "
            "labels: one is wrong, or they only look alike. duplicates.parquet lists all."
            if len(several) else "None of these is under several labels.",
        )  # fmt: skip
    if not_compared:
        logging.info(
            "ingest: %d images were not compared with others: too plain, or Pillow cannot decode them.",
            not_compared,
        )


def _under_several_labels(duplicates: "pa.Table") -> "pa.Table":
    import pyarrow.compute as pc

    return duplicates.filter(pc.ends_with(duplicates["kind"], "several_labels"))


def _pictures(duplicates: "pa.Table", name: str) -> str:
    count = _count_distinct(duplicates, name)
    return f"{count} picture{'s' if count != 1 else ''}"


def _count_distinct(duplicates: "pa.Table", name: str) -> int:
    import pyarrow.compute as pc

    return int(pc.count_distinct(duplicates[name]).as_py())
