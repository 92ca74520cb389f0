"""Tells the kinds of input apart, fingerprints them, and lists evaluation images.

Trees of class folders are read by `folders`, lists by `list_reader`, WebVision trees by `webvision`.
"""

import dataclasses
import functools
import hashlib
import os
import stat
from collections.abc import Sequence

import pyarrow as pa

from urnet_tf.crawl import datasets, folders, list_reader, webvision
from urnet_tf.crawl.class_names import ClassNames
from urnet_tf.crawl.list_tables import ListOptions
from urnet_tf.crawl.table import Crawl, is_utf8, printable
from urnet_tf.crawl.trees import open_tree, walk
from urnet_tf.errors import UsageError
from urnet_tf.images.containers import ARCHIVES
from urnet_tf.images.probe import os_reason, os_status, retried_or_stop
from urnet_tf.schema import LIST_SUFFIXES
from urnet_tf.text_rules import refuse_address, show_path

FOLDER, LIST, WEBVISION, DATASET = "folder", "list", "webvision", "dataset"
# Streams, of which no image can be read without all before it.
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".gz", ".7z", ".rar")


def detect_kind(path: str) -> str:
    """Tells whether a path is a "folder", "list", "webvision" or "dataset" input.

    A "folder" may be an archive, and a "dataset" is what another tool writes, see `datasets`.

    Raises:
      UsageError: there is nothing at the path, a file that is no list, or its name is not UTF-8.
      RunError: the disk or network fails.
    """
    refuse_address(
        path,
        "the images",
        "Copy them to a disk, or mount the bucket (with gcsfuse, s3fs or rclone mount) and give the folder.",
    )
    if not is_utf8(os.path.abspath(path)):
        raise UsageError(
            f"Expected a path in UTF-8 for the images; received {show_path(printable(path))}. Rename it, or "
            "give a link."
        )
    try:
        mode = retried_or_stop(path, lambda: os.stat(path)).st_mode
    except FileNotFoundError:
        raise UsageError(f"Expected images at {show_path(path)}; there is no such file or folder.") from None
    except OSError as error:
        raise UsageError(
            f"Expected images at {show_path(path)}; it cannot be opened: {os_reason(error)}."
        ) from None
    if stat.S_ISDIR(mode) and webvision.looks_like(path):
        return WEBVISION
    if (stat.S_ISDIR(mode) or stat.S_ISREG(mode)) and datasets.looks_like(path):
        return DATASET
    if stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and path.lower().endswith(ARCHIVES)):
        return FOLDER
    if stat.S_ISREG(mode) and path.lower().endswith(_COMPRESSED):
        raise UsageError(
            f"Expected an archive of which each image can be read on its own (.tar, .zip); received "
            f"{show_path(path)}; unpack it, or pack it anew without compression."
        )
    if stat.S_ISREG(mode) and os.path.splitext(path)[1].lower() in LIST_SUFFIXES:
        return LIST
    raise UsageError(
        f"Expected a folder, a WebVision tree, an archive ({', '.join(ARCHIVES)}) or a list "
        f"({', '.join(LIST_SUFFIXES)}); received "
        f"{show_path(path)}; save a list of another form as CSV with the columns path and label."
    )


def resolve_kind(path: str, kind: str = "auto") -> str:
    """`kind`, or what lies at the path where that is "auto"; raises as `detect_kind`."""
    return detect_kind(path) if kind == "auto" else kind


def fingerprint_files(
    path: str,
    kind: str,
    options: ListOptions | None = None,
    sources: Sequence[str] | None = None,
) -> str:
    """The number of listed files, and a hash of their names, sizes and times: "120 files #5e0c...".

    In a WebVision tree the metadata files count, too. Opens no image.

    Raises:
      RunError: the disk or network fails, which is no change of the files.
    """
    if kind == FOLDER and os.path.isdir(path):
        root, files = path, walk(path)
    elif kind in (FOLDER, DATASET):
        root, files = datasets.root_of(path), ((name, None) for name in datasets.files_of(path))
    elif kind == LIST:
        root, listed = list_reader.listed_files(path, options)
        files = ((name, None) for name in listed)
    else:
        root, files = path, ((name, None) for name in webvision.listed_files(path, sources))
    digest, count = hashlib.blake2b(digest_size=16), 0
    for name, problem in files:
        try:
            file = os.path.join(root, name)
            status = retried_or_stop(file, functools.partial(os.stat, file))
            metadata = f"{status.st_size}:{status.st_mtime_ns}"
        except OSError as error:
            metadata = os_status(error)
        except ValueError:  # a NUL in the name
            metadata = "bad_name"
        digest.update(os.fsencode(name) + f"\0{problem}:{metadata}\n".encode())
        count += 1
    return f"{count:,} files #{digest.hexdigest()}"


def read_evaluation(
    path: str,
    split: str,
    classes: Sequence[dict],
    root: str,
    *,
    options: ListOptions | None = None,
    names: ClassNames | None = None,
) -> Crawl:
    """Lists the validation or test images of a folder or list outside of the training input.

    Args:
      split: "val" or "test"; test images may come without labels.
      classes: the classes of the training input.
      root: paths below it are given relative to it, all others absolute.
      options: how a list is written; its paths start beside it.
      names: which names of classes are one.

    Returns:
      The images, with the classes that were given.

    Raises:
      UsageError: there is no such input, or it holds a class that is not trained.
    """
    kind = detect_kind(path)
    if kind in (LIST, DATASET):
        options = dataclasses.replace(options or ListOptions(), image_root=None)
        read = list_reader.read_list if kind == LIST else datasets.read_dataset
        crawl = read(path, options=options, classes=classes, split=split, names=names)
    else:
        crawl = folders.read_evaluation_folder(open_tree(path), split, classes, names)
    if not len(crawl.rows):
        raise UsageError(f"Expected {split} images in class folders or in a list; received none at {path}.")
    rows_there, rejected_there = (_rebased(t, crawl.root, root) for t in (crawl.rows, crawl.rejected))
    return Crawl(root, list(classes), rows_there, rejected_there, crawl.notes)


def _rebased(table: pa.Table, start: str, root: str) -> pa.Table:
    """The table with its paths, which start at `start`, relative to `root` or else absolute."""
    inside = os.path.relpath(start, root)
    prefix = start if inside.startswith("..") else "" if inside == "." else inside
    paths = [os.path.join(prefix, path) for path in table["path"].to_pylist()]
    place = table.schema.get_field_index("path")
    return table.set_column(place, table.schema.field("path"), pa.array(paths, pa.large_string()))
