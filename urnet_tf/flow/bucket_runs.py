"""Which folder of this machine a command works in where it was given the address of a bucket."""

import os
import pathlib
from typing import Any

from absl import logging

from urnet_tf.crawl import corrections
from urnet_tf.errors import UsageError
from urnet_tf.store.bucket_trees import fetch_tree
from urnet_tf.store.buckets import cache_of, is_address
from urnet_tf.store.mirror import find_mirror, open_cache
from urnet_tf.store.workdir import Workdir

# What commands read without asking `Workdir.checked`, which has it brought.
FOR_WHY = ("ingest/*.parquet", "ingest/*.json", "pack/*.parquet", "pack/*.json", "extract/*",
           "features/*.npy", "reweight/*.parquet", "reweight/*.json", "train/weights.parquet")  # fmt: skip
FOR_REVIEW = (
    "ingest/*.parquet",
    "pack/*",
    "extract/*",
    "features/*.npy",
    "reweight/*",
    "train/weights.parquet",
)
FOR_MODELS = ("export/*",)


def local_folder(place: str | os.PathLike[str], *, exists: bool = True, files: tuple[str, ...] = ()) -> str:
    """The cache of a work directory in a bucket, brought up to date; any other place as it is.

    Args:
      place: a folder, which may be a cache itself, or an address.
      exists: whether there has to be a run; else there may be nothing yet.
      files: patterns of the files that have to be here, see `Workdir.bring`.

    Raises:
      UsageError: there is no bucket, no right to read it, or no run in it.
      RunError: the store does not answer, or the disk has too little room.
      DamagedResult: a file in the bucket is not as it was written.
    """
    fetch_tree.cache_clear()  # a crawl in a bucket may have grown since the last run of this process
    root = open_cache(place) if isinstance(place, str) and is_address(place) else pathlib.Path(place)
    mirror = find_mirror(root)
    if mirror is None:
        return os.fspath(place)
    mirror.pull()
    if exists and not mirror.has_stages():
        raise UsageError(
            f"Expected a run at {mirror.bucket.shown}; no stage is complete there. `urnet run` with that "
            "--workdir makes them."
        )
    mirror.pull_files(_join)
    logging.info("%s: works in %s, its cache.", mirror.bucket.shown, root)
    Workdir(root).bring(*files)
    return str(root)


def cached_folder(place: str) -> str:
    """As `local_folder`, without asking the bucket: what is in the cache."""
    return str(cache_of(place, "run")) if is_address(place) else place


def send_files(folder: str | os.PathLike) -> None:
    """Sends what people judged to the bucket that a folder is the cache of, if it is one."""
    mirror = find_mirror(pathlib.Path(folder))
    if mirror is not None:
        mirror.push_files()


def refuse_machines(config: Any, workdir: Workdir) -> None:
    """Raises UsageError where several machines would train in a cache of one."""
    if workdir.address is not None and config.runtime.strategy == "multi_worker":
        raise UsageError(
            "Expected a --workdir that all machines share with runtime.strategy=multi_worker; received "
            f"{workdir.address}, of which each machine has a cache of its own. Give a folder on a share."
        )


def _join(path: pathlib.Path, other: pathlib.Path) -> None:
    """Adds the judgements of another log that are not there yet."""
    known = {tuple(row.values()) for row in corrections.read([path]).to_pylist()}
    rows = corrections.read([other]).to_pylist()
    corrections.append(path, [row for row in rows if tuple(row.values()) not in known])
