"""Files that occur more than once, and near copies: a part of the stage ingest."""

from typing import TYPE_CHECKING

from absl import logging

from urnet_tf.schema import NEAR
from urnet_tf.store.progress import progress

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def with_pictures(
    probes: "pa.Table", thumbnails: "np.ndarray | None", similarity: float | None
) -> tuple["pa.Table", int]:
    """Probe results with the column `picture`, and how many different files could not be compared."""
    from urnet_tf.crawl.near_copies import WINDOWS, name_pictures

    hashes = probes["content_hash"]
    if thumbnails is None or similarity is None:
        return probes.append_column("picture", hashes), 0
    with progress(None, "compare", total=len(WINDOWS) * len(probes), unit="windows") as bar:
        pictures, not_compared = name_pictures(hashes, thumbnails, similarity, bar.update)
    return probes.append_column("picture", pictures.cast(hashes.type)), not_compared


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
