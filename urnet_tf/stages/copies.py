"""Near copies among the images of a crawl: a part of the stage ingest."""

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
