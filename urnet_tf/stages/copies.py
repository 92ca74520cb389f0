"""Near copies among the images of a crawl: a part of the stage ingest."""

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
    similarity = context.config.ingest.copy_similarity
    if files.thumbnails is None or similarity is None:
        return files.table.append_column("picture", hashes), 0
    if (known := _known_pictures(context, hashes)) is not None:
        return files.table.append_column("picture", known[0].cast(hashes.type)), known[1]
    with progress(None, "compare", total=len(WINDOWS) * len(hashes), unit="windows") as bar:
        pictures, not_compared = name_pictures(hashes, files.thumbnails, similarity, bar.update)
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
    before = marker.get("settings", {}).get("ingest.copy_similarity")
    if before != context.config.ingest.copy_similarity or not was_alike(path.parent, context.config):
        return None
    table = read_table(path, ["content_hash", "picture"])
    table = table.filter(pc.not_equal(table["picture"], ""))
    known, keys = RowsByKey(keys_of_hex(table["content_hash"].to_pylist())), keys_of_hex(hashes.to_pylist())
    rows, compared = known.find(keys), keys.any(axis=1)
    if (rows[compared] < 0).any() or len(RowsByKey(keys[compared])) != len(known):
        return None
    pictures = table["picture"].take(pa.array(rows, mask=~compared))
    return pc.fill_null(pictures, ""), int(marker["metadata"]["not_compared"])


def tell_copies(duplicates: "pa.Table", not_compared: int) -> None:
    """What the log says of near copies."""
    import pyarrow.compute as pc

    near = duplicates.filter(pc.starts_with(duplicates["kind"], NEAR))
    if len(near):
        several = near.filter(pc.equal(near["kind"], NEAR + "several_labels"))
        logging.info(
            "ingest: %d images are near copies, of %d pictures. %d of these, with %d images, are under "
            "several labels: one is wrong, or they only look alike. duplicates.parquet lists all.",
            len(near), _count_pictures(near), _count_pictures(several), len(several),
        )  # fmt: skip
    if not_compared:
        logging.info(
            "ingest: %d images were not compared with others: too plain, or Pillow cannot decode them.",
            not_compared,
        )


def _count_pictures(duplicates: "pa.Table") -> int:
    import pyarrow.compute as pc

    return int(pc.count_distinct(duplicates["picture"]).as_py())
