"""Whether the images that an earlier run has read are still there: a part of the stage ingest."""

import os

from urnet_tf.errors import RunError
from urnet_tf.store import DamagedResult, Workdir, read_table
from urnet_tf.store.bucket_trees import place_of


def check_folders(workdir: Workdir, root: str) -> None:
    """Stops where images that an earlier run has read are gone with their folders: a disk is not mounted.

    Single files that are gone were removed by someone, or are told by `_check_missing`.
    """
    import pyarrow.compute as pc

    marker = workdir.marker("ingest")
    if marker is None or place_of(marker["metadata"]["root"]) != root:
        return
    try:
        paths = read_table(workdir.checked("ingest", "candidates.parquet"), ["path"])["path"]
    except DamagedResult:
        return  # nobody knows what was read
    folders = pc.value_counts(pc.replace_substring_regex(paths, r"/?[^/]*$", "")).to_pylist()
    gone = {
        f["values"]: f["counts"] for f in folders if not _holds_something(os.path.join(root, f["values"]))
    }
    if not gone:
        return
    examples = ", ".join(os.path.join(root, folder) for folder in sorted(gone)[:3])
    raise RunError(
        f"ingest: {sum(gone.values())} images that an earlier run has read are gone with their folders, for "
        f"example {examples}. If a disk or share is not mounted, mount it and run the same command again: "
        "all results are as they were. If the images were removed on purpose, run with --from ingest, which "
        "lists what is there."
    )


def _holds_something(folder: str) -> bool:
    """Whether a folder is there and not empty, like the place of a disk that is not mounted.

    What lies in an archive is there with it.
    """
    from urnet_tf.images.containers import find_container

    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except (FileNotFoundError, NotADirectoryError):
        return find_container(os.path.join(folder, "x")) is not None
    except OSError:  # probing its files says what fails
        return True
